//! Layers that the host has declared to belong together.

use std::collections::HashMap;
use std::sync::Arc;

use super::layer::{Layer, LayerSpec};
use super::registry::Model;

impl Model {
    /// The groups that layers name, and their members, both in the order of registration.
    pub(crate) fn layer_groups(
        &self,
        group: impl Fn(&LayerSpec) -> Option<&str>,
    ) -> Vec<(String, Vec<Arc<Layer>>)> {
        let mut by_name: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<(String, Vec<Arc<Layer>>)> = Vec::new();
        for layer in self.layers() {
            if let Some(name) = group(layer.spec()) {
                let at = *by_name.entry(name).or_insert(groups.len());
                if at == groups.len() {
                    groups.push((name.to_owned(), Vec::new()));
                }
                groups[at].1.push(Arc::clone(layer));
            }
        }
        groups
    }
}
