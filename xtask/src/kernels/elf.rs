//! The header of a cubin, which is an ELF file: for which architecture, and which drivers can read it.
//!
//! Not documented by NVIDIA; the meaning of the fields is that of LLVM's `BinaryFormat/ELF.h`, seen in the output of
//! each assembler (docs/cuda.md).

/// `e_machine` of CUDA.
const EM_CUDA: u16 = 190;
/// The ABI that drivers of CUDA 12.0 read, and the one that came with Blackwell and, for all, with CUDA 13.
const ABIS: [(u8, u8); 2] = [(0x33, 7), (0x41, 8)];

/// What the header of a cubin says.
#[derive(Debug, PartialEq, Eq)]
pub struct Cubin {
    /// `EI_ABIVERSION`: 7 or 8.
    pub abi: u8,
    /// The architecture: 75 for sm_75.
    pub sm: u32,
}

/// Reads the header of a cubin.
pub fn read(bytes: &[u8]) -> Result<Cubin, String> {
    let Some(header) = bytes
        .get(..64)
        .filter(|h| h.starts_with(b"\x7fELF\x02\x01"))
    else {
        return Err("not a 64-bit little-endian ELF file".to_owned());
    };
    let machine = u16::from_le_bytes([header[18], header[19]]);
    if machine != EM_CUDA {
        return Err(format!("ELF machine {machine}, expected {EM_CUDA} (CUDA)"));
    }
    let (os, abi) = (header[7], header[8]);
    if !ABIS.contains(&(os, abi)) {
        return Err(format!("unknown ELF ABI {os:#x} version {abi}"));
    }
    // The lowest byte of e_flags with ABI 7, the second with ABI 8.
    let sm = header[if abi == 7 { 48 } else { 49 }];
    Ok(Cubin { abi, sm: sm.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(os: u8, abi: u8, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..9].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, os, abi]);
        bytes[18] = 190;
        bytes[48..52].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn both_abis_are_read() {
        let seven = read(&header(0x33, 7, 0x004b_0550));
        assert_eq!(seven, Ok(Cubin { abi: 7, sm: 80 }));
        let eight = read(&header(0x41, 8, 0x0600_7802));
        assert_eq!(eight, Ok(Cubin { abi: 8, sm: 120 }));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(read(b"").is_err());
        assert!(read(&header(0x33, 9, 0)).is_err());
        assert!(read(&header(0x33, 7, 0)[..63]).is_err());
    }
}
