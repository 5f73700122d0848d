//! What `ptxas -v` says about each kernel.

use std::collections::BTreeMap;

/// Resources of one kernel on one architecture.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u64,
    /// Bytes of static shared memory of a block.
    pub shared: u64,
    /// Bytes of stack of a thread, of the kernel and what it calls.
    pub stack: u64,
    /// Bytes stored because registers ran out.
    pub spill_stores: u64,
    /// Bytes loaded because registers ran out.
    pub spill_loads: u64,
}

/// Resources by entry point. The two assemblers differ in what they say beside these.
pub fn read(log: &str) -> Result<BTreeMap<String, Resources>, String> {
    let mut kernels: BTreeMap<String, Resources> = BTreeMap::new();
    let mut current = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default();
            current = Some(kernels.entry(name.to_owned()).or_default());
        } else if let Some(kernel) = current.as_deref_mut() {
            let registers = before(line, " registers").or(before(line, " register,"));
            kernel.registers = kernel.registers.max(registers.unwrap_or(0));
            kernel.shared = kernel.shared.max(before(line, " bytes smem").unwrap_or(0));
            kernel.stack += before(line, " bytes stack frame").unwrap_or(0);
            kernel.spill_stores += before(line, " bytes spill stores").unwrap_or(0);
            kernel.spill_loads += before(line, " bytes spill loads").unwrap_or(0);
        }
    }
    match kernels.iter().find(|(_, kernel)| kernel.registers == 0) {
        None => Ok(kernels),
        Some((name, _)) => Err(format!("ptxas did not say how many registers {name} takes")),
    }
}

/// The number before `unit`.
fn before(line: &str, unit: &str) -> Option<u64> {
    let text = &line[..line.find(unit)?];
    text.split(' ').next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_assemblers_are_read() {
        let log = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'sum' for 'sm_75'
ptxas info    : Function properties for sum
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 1024 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function 'copy' for 'sm_75'
ptxas info    : Function properties for copy
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 380 bytes cmem[0]
";
        let kernels = read(log).expect("kernels");
        let sum = Resources {
            registers: 12,
            shared: 1024,
            stack: 8,
            spill_stores: 4,
            spill_loads: 12,
        };
        assert_eq!(kernels["sum"], sum);
        assert_eq!(kernels["copy"].registers, 8);
        assert!(read("Compiling entry function 'x' for 'sm_75'\n").is_err());
    }
}
