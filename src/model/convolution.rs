//! How a convolution moves over its input.

/// Strides, padding and dilation, one of each for every spatial axis; those that a layer does not have are
/// ignored. Padding is with zeros. The number of groups follows from input and weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Elements from one place of the kernel to the next.
    pub stride: [usize; 3],
    /// Zeros before the first and after the last element.
    pub padding: [usize; 3],
    /// Elements from one of the kernel's to the next.
    pub dilation: [usize; 3],
}

impl Default for Convolution {
    fn default() -> Self {
        Self {
            stride: [1; 3],
            padding: [0; 3],
            dilation: [1; 3],
        }
    }
}
