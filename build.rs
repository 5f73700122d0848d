//! Gives libmq.so its SONAME. Before 1.0 every minor version may change the ABI, so it is part of it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version =
        |part: &str| std::env::var(format!("CARGO_PKG_VERSION_{part}")).unwrap_or_default();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let (major, minor) = (version("MAJOR"), version("MINOR"));
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmq.so.{major}.{minor}");
    }
}
