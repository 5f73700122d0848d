//! One record of a file that is only ever appended to.
//!
//! Bytes: length of the rest (u32), length of the JSON (u32), the JSON, float32 values one after the other, and a
//! checksum (u64) of all of it. Little-endian.

use serde_json::Value;

use crate::kernels::fingerprint;

/// What a record says.
pub(crate) struct Frame {
    /// An object.
    pub header: Value,
    /// The values that it names.
    pub values: Vec<f32>,
}

/// The bytes of a record. None for one that is too long.
pub(crate) fn write(header: &Value, values: &[f32]) -> Option<Vec<u8>> {
    let header = header.to_string();
    let length = u32::try_from(4 + header.len() + size_of_val(values)).ok()?;
    let header_length = u32::try_from(header.len()).ok()?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header_length.to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(fingerprint::of_bytes(0, &bytes).to_le_bytes());
    Some(bytes)
}

/// The records that are whole, and how many bytes they take.
pub(crate) fn read_all(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let (mut frames, mut used) = (Vec::new(), 0);
    while let Some((frame, length)) = read(&bytes[used..]) {
        frames.push(frame);
        used += length;
    }
    (frames, used)
}

fn read(bytes: &[u8]) -> Option<(Frame, usize)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let body = bytes.get(..4 + length)?;
    let checksum = u64::from_le_bytes(*bytes.get(4 + length..)?.first_chunk()?);
    if fingerprint::of_bytes(0, body) != checksum {
        return None;
    }
    let header_length = u32::from_le_bytes(*body.get(4..)?.first_chunk()?) as usize;
    let header = serde_json::from_slice(body.get(8..8usize.checked_add(header_length)?)?).ok()?;
    let (values, rest) = body.get(8 + header_length..)?.as_chunks::<4>();
    let values = values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect();
    rest.is_empty()
        .then_some((Frame { header, values }, 4 + length + 8))
}
