//! Memory for a part of a packed weight: our own, or given by the host.

/// What our own memory is aligned to, so that any kernel of the host's may read it.
const ALIGNMENT: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "only seen as bytes")] [u8; ALIGNMENT]);

/// A run of bytes that stays where it is until it is dropped.
pub struct Memory {
    source: Source,
    len: usize,
}

enum Source {
    Own(Vec<Line>),
    Host(*mut u8),
}

// SAFETY: memory of our own is plain bytes; that of the host is ours to use from any thread (contract
// of `of_host`).
unsafe impl Send for Memory {}
// SAFETY: as above; writing needs `&mut`.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` bytes of our own, zero.
    pub fn new(len: usize) -> Result<Self, String> {
        let lines = len.div_ceil(ALIGNMENT);
        let mut own = Vec::new();
        own.try_reserve_exact(lines)
            .map_err(|e| format!("{len} bytes: {e}"))?;
        own.resize(lines, Line([0; ALIGNMENT]));
        Ok(Self {
            source: Source::Own(own),
            len,
        })
    }

    /// `len` bytes of the host's.
    ///
    /// # Safety
    /// `data` is valid for `len` bytes for as long as this value lives, and nobody else writes to
    /// them meanwhile. It may be NULL when `len` is 0.
    pub unsafe fn of_host(data: *mut u8, len: usize) -> Self {
        Self {
            source: Source::Host(data),
            len,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte.
    pub fn data(&self) -> *const u8 {
        match &self.source {
            Source::Own(lines) => lines.as_ptr().cast(),
            Source::Host(data) => *data,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self.len {
            0 => &[],
            // SAFETY: `len` bytes of ours, or of the host's (contract of `of_host`).
            len => unsafe { std::slice::from_raw_parts(self.data(), len) },
        }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let data = match &mut self.source {
            Source::Own(lines) => lines.as_mut_ptr().cast(),
            Source::Host(data) => *data,
        };
        match self.len {
            0 => &mut [],
            // SAFETY: as in `bytes`, and borrowed exclusively.
            len => unsafe { std::slice::from_raw_parts_mut(data, len) },
        }
    }

    /// The bytes as float32. Panics when the host's memory is not aligned for them: who takes it
    /// from the host checks that.
    pub fn floats(&self) -> &[f32] {
        if self.len < size_of::<f32>() {
            return &[];
        }
        assert!(self.data().cast::<f32>().is_aligned(), "alignment");
        // SAFETY: the bytes of `bytes`, aligned; every pattern is a float.
        unsafe {
            std::slice::from_raw_parts(self.data().cast::<f32>(), self.len / size_of::<f32>())
        }
    }

    /// Copies float32 values in; as many as fit exactly.
    pub fn write_floats(&mut self, values: &[f32]) {
        assert_eq!(self.len, size_of_val(values), "values");
        let bytes = self.bytes_mut().chunks_exact_mut(size_of::<f32>());
        for (to, value) in bytes.zip(values) {
            to.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_aligned_and_zero() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let mut memory = Memory::new(len).expect("small");
            assert_eq!(memory.data() as usize % ALIGNMENT, 0);
            assert_eq!(memory.bytes(), vec![0; len]);
            memory.bytes_mut().fill(7);
            assert_eq!(memory.bytes(), vec![7; len]);
        }
        let mut floats = Memory::new(8).expect("small");
        floats.write_floats(&[1.5, -2.0]);
        assert_eq!(floats.floats(), [1.5, -2.0]);
        assert!(Memory::new(isize::MAX as usize).is_err());
    }
}
