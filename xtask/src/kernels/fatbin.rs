//! The container that holds PTX and machine code: what lies in it, and whether drivers of CUDA 12.0 can read it.
//!
//! Not documented by NVIDIA beyond the magic number (`fatbinary_section.h`); the fields were read off the output of
//! `fatbinary`.

const MAGIC: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
/// The payload is compressed with Zstandard, which drivers before 12.4 do not know; LZ4 is 0x2000.
const FLAG_ZSTD: u64 = 0x8000;

/// One image.
#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// PTX, else machine code.
    pub is_ptx: bool,
    /// The architecture: 75 for sm_75 or compute_75.
    pub sm: u32,
    /// Compressed with Zstandard.
    pub is_zstd: bool,
}

impl Image {
    /// `sm_75`, or `compute_75` of PTX.
    pub fn name(&self) -> String {
        format!("{}_{}", if self.is_ptx { "compute" } else { "sm" }, self.sm)
    }
}

/// The images of a fatbin, in order.
pub fn read(bytes: &[u8]) -> Result<Vec<Image>, String> {
    let broken = || "the fatbin is cut short or of an unknown layout".to_owned();
    if number(bytes, 0, 4) != Some(MAGIC.into()) {
        return Err("the fatbin has no magic number".to_owned());
    }
    let mut at = number(bytes, 6, 2).ok_or_else(broken)?;
    let mut images = Vec::new();
    while at < bytes.len() as u64 {
        let image = usize::try_from(at)
            .ok()
            .and_then(|at| bytes.get(at..))
            .ok_or_else(broken)?;
        let kind = number(image, 0, 2).ok_or_else(broken)? as u16;
        let header = number(image, 4, 4).ok_or_else(broken)?;
        let payload = number(image, 8, 8).ok_or_else(broken)?;
        let sm = number(image, 28, 4).ok_or_else(broken)? as u32;
        let flags = number(image, 40, 8).ok_or_else(broken)?;
        if header < 48 || ![KIND_PTX, KIND_ELF].contains(&kind) {
            return Err(broken());
        }
        images.push(Image {
            is_ptx: kind == KIND_PTX,
            sm,
            is_zstd: flags & FLAG_ZSTD != 0,
        });
        at = [header, payload]
            .into_iter()
            .try_fold(at, u64::checked_add)
            .ok_or_else(broken)?;
    }
    if at != bytes.len() as u64 {
        return Err(broken());
    }
    Ok(images)
}

/// A little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at + size)?;
    Some(field.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatbin(flags: u64) -> Vec<u8> {
        let mut image = vec![0; 68];
        image[0] = 2;
        image[4] = 64;
        image[8] = 4;
        image[28] = 90;
        image[40..48].copy_from_slice(&flags.to_le_bytes());
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0, 68, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(image);
        bytes
    }

    #[test]
    fn images_are_listed() {
        let images = read(&fatbin(0xa011)).expect("images");
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].name(), "sm_90");
        assert!(images[0].is_zstd);
        assert!(!read(&fatbin(0x2011)).expect("images")[0].is_zstd);
    }

    #[test]
    fn a_fatbin_cut_anywhere_is_refused() {
        let whole = fatbin(0);
        for end in (0..16).chain(17..whole.len()) {
            assert!(read(&whole[..end]).is_err(), "{end} bytes");
        }
    }
}
