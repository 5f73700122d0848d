//! A file of records that belongs to one piece of work, so that work that was killed goes on from there.
//!
//! Layout: 8 bytes of magic, 8 of a fingerprint of the work, then records (see `frame`) that are only ever appended:
//! what a killed process left half-written is cut off.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::frame::{self, Frame};
use crate::error::{Error, Result};

/// Which file it is, for its bytes and for messages.
pub(crate) struct Kind {
    pub magic: &'static [u8; 8],
    /// "resume file".
    pub name: &'static str,
    /// What is said when the file is of other work.
    pub mismatch: &'static str,
}

/// An open file.
pub(crate) struct RecordFile {
    kind: &'static Kind,
    path: PathBuf,
    file: File,
}

impl RecordFile {
    /// The file of the work of that fingerprint, and what it holds; an empty one when there is none.
    pub fn open(path: &Path, kind: &'static Kind, fingerprint: u64) -> Result<(Self, Vec<Frame>)> {
        let failed = |error: std::io::Error| cannot(kind, "open", path, &error);
        // A pipe or a device would be read without end.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(Error::State(format!(
                "cannot open the {} {}: it is no regular file",
                kind.name,
                path.display()
            )));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut header = kind.magic.to_vec();
        header.extend(fingerprint.to_le_bytes());
        let mut bytes = Vec::new();
        let mut start = (&mut file).take(header.len() as u64 + 1);
        start.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.starts_with(&header) {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        // A file that is no longer than its header never got as far as a record, whatever it was of.
        let is_ours = bytes.starts_with(kind.magic) || kind.magic.starts_with(&bytes);
        let (frames, good) = if bytes.len() <= header.len() && is_ours {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            file.write_all(&header).map_err(failed)?;
            (Vec::new(), header.len())
        } else if bytes.starts_with(&header) {
            let (frames, used) = frame::read_all(&bytes[header.len()..]);
            (frames, header.len() + used)
        } else {
            return Err(Error::State(format!(
                "{} {}{}",
                kind.name,
                path.display(),
                kind.mismatch
            )));
        };
        file.set_len(good as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let path = path.to_owned();
        Ok((Self { kind, path, file }, frames))
    }

    /// Appends records in one write: either they are there, or their checksum tells.
    pub fn append(&mut self, records: &[u8]) -> Result<()> {
        let written = self.file.write_all(records);
        written.map_err(|error| cannot(self.kind, "write to", &self.path, &error))
    }

    /// Removes the file. Errors with why it is still there.
    pub fn remove(self) -> Result<()> {
        drop(self.file);
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(cannot(self.kind, "remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

fn cannot(kind: &Kind, what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::State(format!(
        "cannot {what} the {} {}: {error}",
        kind.name,
        path.display()
    ))
}
