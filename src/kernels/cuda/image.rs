//! The compiled kernels: machine code for every architecture and PTX, made by `cargo xtask kernels` from the `.cu`
//! files, whose hashes `kernels.json` keeps.

/// The fat binary, aligned as the driver reads it.
pub(super) fn bytes() -> &'static [u8] {
    #[repr(C, align(16))]
    struct Aligned<B: ?Sized>(B);
    static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!("kernels.fatbin"));
    &IMAGE.0
}
