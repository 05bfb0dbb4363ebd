//! The directory of a zip archive whose entries are stored, not compressed: what `torch.save` writes.
//!
//! Read is the central directory at the end of the file (APPNOTE 6.3, sections 4.3.12 to 4.3.16, with ZIP64). Every local
//! header is compared with it, and the entries must tile the file from its first byte to the directory: no holes, no
//! overlaps, nothing before or behind. An archive that other tools would read differently is refused.

use std::path::Path;

use pteron_tensor::ByteSource;

use crate::error::{CheckpointError, Shown};
use crate::limits::{MAX_NAME_BYTES, MAX_ZIP_DIRECTORY_BYTES, MAX_ZIP_ENTRIES};

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZipEntry {
    pub(crate) name: String,
    /// Where its bytes begin in the archive.
    pub(crate) offset: u64,
    /// Their number.
    pub(crate) len: u64,
}

/// The entries of an archive, sorted by name.
#[derive(Debug)]
pub(crate) struct ZipDirectory {
    entries: Vec<ZipEntry>,
}

const END: &[u8] = b"PK\x05\x06";
const END_LEN: u64 = 22;
const END64: &[u8] = b"PK\x06\x06";
const END64_LEN: u64 = 56;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_LEN: u64 = 20;
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LEN: usize = 30;
const DESCRIPTOR: &[u8] = b"PK\x07\x08";

/// Said of the archives that `torch.jit.save` writes, which have sources in `code/`, compressed.
pub(super) const TORCHSCRIPT: &str =
    "it is a TorchScript program, not a checkpoint: save the module's state_dict() with torch.save";

/// Sizes and checksum follow the bytes.
const HAS_DESCRIPTOR: u16 = 1 << 3;
/// Encryption of any sort, and patches.
const ENCRYPTED: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;

/// Fields of a record, in order. Past the end they are 0, and `short` is set.
struct Record<'a> {
    rest: &'a [u8],
    short: bool,
}

impl<'a> Record<'a> {
    fn new(bytes: &'a [u8]) -> Record<'a> {
        Record { rest: bytes, short: false }
    }
    fn take(&mut self, n: usize) -> &'a [u8] {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                head
            }
            None => {
                self.short = true;
                self.rest = &[];
                &[]
            }
        }
    }
    fn number<const N: usize>(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        let taken = self.take(N);
        if let Some(to) = bytes.get_mut(..taken.len()) {
            to.copy_from_slice(taken);
        }
        u64::from_le_bytes(bytes)
    }
    fn u16(&mut self) -> u16 {
        self.number::<2>() as u16
    }
    fn u32(&mut self) -> u64 {
        self.number::<4>()
    }
    fn u64(&mut self) -> u64 {
        self.number::<8>()
    }
}

/// What an entry of the central directory says.
struct Listed {
    name: String,
    method: u16,
    flags: u16,
    crc: u64,
    len: u64,
    header: u64,
}

/// Where the central directory lies and how many entries it has.
struct Ending {
    entries: u64,
    offset: u64,
    len: u64,
}

impl ZipDirectory {
    /// Reads the directory of `bytes`, which messages call `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Zip`] or [`CheckpointError::TooLarge`].
    pub(crate) fn read(path: &Path, bytes: &dyn ByteSource) -> Result<ZipDirectory, CheckpointError> {
        let reader = Reader { path, bytes };
        let ending = reader.ending()?;
        let listed = reader.central(&ending)?;
        let mut entries = reader.locals(listed, ending.offset)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some([twice, _]) = entries.array_windows().find(|[a, b]| a.name == b.name) {
            return Err(reader.fail(format!("the entry `{}` is there twice", Shown(&twice.name))));
        }
        Ok(ZipDirectory { entries })
    }

    /// The entry `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&ZipEntry> {
        let at = self.entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
        self.entries.get(at)
    }

    /// All entries, sorted by name.
    pub(crate) fn entries(&self) -> &[ZipEntry] {
        &self.entries
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a dyn ByteSource,
}

impl Reader<'_> {
    fn fail(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Zip { path: self.path.to_owned(), reason: reason.into() }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, CheckpointError> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.bytes.len());
        end.ok_or_else(|| self.fail("the file is cut short"))?;
        let mut out = vec![0; len];
        self.bytes.read_at(offset, &mut out).map_err(|e| crate::error::read_failed(self.path, &e))?;
        Ok(out)
    }

    /// The records at the end of the file. A comment is not accepted: then the place of the last record is known.
    fn ending(&self) -> Result<Ending, CheckpointError> {
        let cut = "the file is cut short: a zip archive ends with its directory, and this file does not";
        let end_at = self.bytes.len().checked_sub(END_LEN).ok_or_else(|| self.fail(cut))?;
        let end = self.read(end_at, END_LEN as usize)?;
        let mut r = Record::new(&end);
        if r.take(4) != END {
            return Err(self.fail(cut));
        }
        let disks = [r.u16(), r.u16()];
        let (here, all, len, offset) = (r.u16(), r.u16(), r.u32(), r.u32());
        if disks != [0, 0] && disks != [u16::MAX; 2] || here != all {
            return Err(self.fail("the archive is one of several parts"));
        }
        if r.u16() != 0 {
            return Err(self.fail("the archive has a comment"));
        }
        let short = Ending { entries: u64::from(all), offset, len };
        let (ending, records_at) = self.ending64(short, end_at)?;
        if ending.offset.checked_add(ending.len) != Some(records_at) {
            return Err(self.fail(format!(
                "the directory of {} bytes at {} does not end where the last records begin, at {records_at}",
                ending.len, ending.offset
            )));
        }
        let too_large =
            |what, found, limit| Err(CheckpointError::TooLarge { path: self.path.to_owned(), what, found, limit });
        if ending.entries > MAX_ZIP_ENTRIES {
            return too_large("the number of entries of the archive", ending.entries, MAX_ZIP_ENTRIES);
        }
        if ending.len > MAX_ZIP_DIRECTORY_BYTES {
            return too_large("the archive's directory in bytes", ending.len, MAX_ZIP_DIRECTORY_BYTES);
        }
        Ok(ending)
    }

    /// The ZIP64 records before the last one, if they are there, and where the records begin.
    fn ending64(&self, short: Ending, end_at: u64) -> Result<(Ending, u64), CheckpointError> {
        let needs = short.entries == 0xFFFF || short.offset == 0xFFFF_FFFF || short.len == 0xFFFF_FFFF;
        let locator = match end_at.checked_sub(LOCATOR_LEN) {
            Some(at) => self.read(at, LOCATOR_LEN as usize)?,
            None => Vec::new(),
        };
        let mut r = Record::new(&locator);
        if r.take(4) != LOCATOR {
            return if needs { Err(self.fail("the ZIP64 locator is missing")) } else { Ok((short, end_at)) };
        }
        let (_disk, at, _disks) = (r.u32(), r.u64(), r.u32());
        if at.checked_add(END64_LEN + LOCATOR_LEN) != Some(end_at) {
            return Err(self.fail("the ZIP64 record is not where its locator says"));
        }
        let record = self.read(at, END64_LEN as usize)?;
        let mut r = Record::new(&record);
        if r.take(4) != END64 || r.u64() != END64_LEN - 12 {
            return Err(self.fail("the ZIP64 record is not where its locator says"));
        }
        r.take(4);
        let disks = [r.u32(), r.u32()];
        let (here, all, len, offset) = (r.u64(), r.u64(), r.u64(), r.u64());
        if disks != [0, 0] || here != all {
            return Err(self.fail("the archive is one of several parts"));
        }
        let agree = |short: u64, most: u64, long: u64| short == long || short == most;
        if !(agree(short.entries, 0xFFFF, all)
            && agree(short.offset, 0xFFFF_FFFF, offset)
            && agree(short.len, 0xFFFF_FFFF, len))
        {
            return Err(self.fail("the ZIP64 record contradicts the last record"));
        }
        Ok((Ending { entries: all, offset, len }, at))
    }

    fn central(&self, ending: &Ending) -> Result<Vec<Listed>, CheckpointError> {
        // Both are limited, and the directory lies inside the file.
        let directory = self.read(ending.offset, ending.len as usize)?;
        if ending.entries > ending.len / CENTRAL_LEN as u64 {
            return Err(self.fail(format!("{} entries do not fit a directory of {} bytes", ending.entries, ending.len)));
        }
        let mut r = Record::new(&directory);
        let mut listed = Vec::with_capacity(ending.entries as usize);
        for _ in 0..ending.entries {
            listed.push(self.central_entry(&mut r)?);
        }
        if !r.rest.is_empty() {
            return Err(self.fail(format!("{} bytes follow the entries of the directory", r.rest.len())));
        }
        Ok(listed)
    }

    fn central_entry(&self, r: &mut Record<'_>) -> Result<Listed, CheckpointError> {
        if r.take(4) != CENTRAL {
            return Err(self.fail("an entry of the directory does not begin with its signature"));
        }
        r.take(4);
        let (flags, method) = (r.u16(), r.u16());
        r.take(4);
        let (crc, stored, len) = (r.u32(), r.u32(), r.u32());
        let [name_len, extra_len, comment_len] = [r.u16(), r.u16(), r.u16()].map(usize::from);
        let disk = r.u16();
        r.take(6);
        let header = r.u32();
        let (name, extra) = (r.take(name_len), r.take(extra_len));
        r.take(comment_len);
        if r.short {
            return Err(self.fail("an entry reaches past the end of the directory"));
        }
        let name = self.name(name)?;
        let fail = |reason: &str| self.fail(format!("the entry `{}` {reason}", Shown(&name)));
        if method != 0 && name.split('/').nth(1) == Some("code") {
            return Err(self.fail(TORCHSCRIPT));
        }
        if method != 0 {
            return Err(fail(&format!(
                "is compressed (method {method}): only stored entries are read; save the checkpoint again with torch.save"
            )));
        }
        if flags & ENCRYPTED != 0 {
            return Err(fail("is encrypted"));
        }
        if disk != 0 && disk != u16::MAX {
            return Err(fail("lies in another part of the archive"));
        }
        let [len, stored, header] =
            zip64_fields(extra, [len, stored, header]).ok_or_else(|| fail("has a broken ZIP64 field"))?;
        if stored != len {
            return Err(fail(&format!("is stored, but has {stored} bytes for {len}")));
        }
        Ok(Listed { name, method, flags, crc, len, header })
    }

    fn name(&self, name: &[u8]) -> Result<String, CheckpointError> {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let text = std::str::from_utf8(name).ok().filter(|n| !n.is_empty() && n.len() <= MAX_NAME_BYTES);
        let plain = text.filter(|n| !n.contains(['\0', '\\']) && !n.starts_with('/'));
        let plain = plain.filter(|n| n.split('/').all(|part| part != ".."));
        plain.map(str::to_owned).ok_or_else(|| {
            self.fail(format!(
                "an entry is called `{}`: a name must be UTF-8 of 1 to {MAX_NAME_BYTES} bytes without `..`, `\\` and a leading `/`",
                Shown(&shown())
            ))
        })
    }

    /// Compares every local header with its entry of the directory, and the extents with each other.
    fn locals(&self, mut listed: Vec<Listed>, directory_at: u64) -> Result<Vec<ZipEntry>, CheckpointError> {
        listed.sort_by_key(|l| l.header);
        let mut entries = Vec::with_capacity(listed.len());
        let mut next = 0u64;
        for entry in listed {
            let fail = |reason: String| self.fail(format!("the entry `{}` {reason}", Shown(&entry.name)));
            if entry.header != next {
                let what = if entry.header < next { "overlaps the one before it" } else { "comes after a hole" };
                return Err(fail(format!("{what}: it begins at byte {}, expected {next}", entry.header)));
            }
            let offset = self.local(&entry)?;
            let end = offset.checked_add(entry.len).filter(|&end| end <= directory_at);
            let end = end.ok_or_else(|| fail(format!("of {} bytes reaches past the end of the data", entry.len)))?;
            next = match entry.flags & HAS_DESCRIPTOR {
                0 => end,
                _ => self.descriptor(&entry, end)?,
            };
            entries.push(ZipEntry { name: entry.name, offset, len: entry.len });
        }
        if next != directory_at {
            return Err(
                self.fail(format!("the entries end at byte {next}, and the directory begins at {directory_at}"))
            );
        }
        Ok(entries)
    }

    /// Where the bytes of `entry` begin.
    fn local(&self, entry: &Listed) -> Result<u64, CheckpointError> {
        let fail = || self.fail(format!("the entry `{}` is described differently at its bytes", Shown(&entry.name)));
        let header = self.read(entry.header, LOCAL_LEN)?;
        let mut r = Record::new(&header);
        if r.take(4) != LOCAL {
            return Err(fail());
        }
        r.take(2);
        let (flags, method) = (r.u16(), r.u16());
        r.take(4);
        let (crc, stored, len) = (r.u32(), r.u32(), r.u32());
        let [name_len, extra_len] = [r.u16(), r.u16()].map(usize::from);
        let variable = self.read(entry.header.saturating_add(LOCAL_LEN as u64), name_len.saturating_add(extra_len))?;
        let (name, extra) = variable.split_at_checked(name_len).ok_or_else(fail)?;
        let [len, stored, _] = zip64_fields(extra, [len, stored, 0]).ok_or_else(fail)?;
        // With a descriptor the sizes are given there, and here mostly as 0.
        let late = flags & HAS_DESCRIPTOR != 0;
        let same = |found: u64, expected: u64| found == expected || (late && found == 0);
        if name != entry.name.as_bytes()
            || method != entry.method
            || flags != entry.flags
            || !same(crc, entry.crc)
            || !same(stored, entry.len)
            || !same(len, entry.len)
        {
            return Err(fail());
        }
        Ok(entry.header.saturating_add((LOCAL_LEN + variable.len()) as u64))
    }

    /// Where the descriptor behind the bytes of `entry` ends: checksum and two sizes, of 4 or 8 bytes, mostly with a
    /// signature before them.
    fn descriptor(&self, entry: &Listed, at: u64) -> Result<u64, CheckpointError> {
        let left = self.bytes.len().saturating_sub(at).min(24);
        let bytes = self.read(at, left as usize)?;
        for signature in [true, false] {
            for wide in [false, true] {
                let mut r = Record::new(&bytes);
                if signature && r.take(4) != DESCRIPTOR {
                    continue;
                }
                let crc = r.u32();
                let sizes = if wide { [r.u64(), r.u64()] } else { [r.u32(), r.u32()] };
                if !r.short && crc == entry.crc && sizes == [entry.len; 2] {
                    return Ok(at.saturating_add((bytes.len() - r.rest.len()) as u64));
                }
            }
        }
        Err(self.fail(format!("the entry `{}` is not followed by its descriptor", Shown(&entry.name))))
    }
}

/// Size, stored size and offset with those that are all ones replaced from the ZIP64 field of `extra`, which has them in
/// this order. `None` if one is missing there.
fn zip64_fields(extra: &[u8], mut fields: [u64; 3]) -> Option<[u64; 3]> {
    const ALL_ONES: u64 = 0xFFFF_FFFF;
    let mut long = Record::new(&[]);
    let mut r = Record::new(extra);
    // Fewer than four bytes are padding.
    while r.rest.len() >= 4 {
        let (id, len) = (r.u16(), r.u16());
        let body = r.take(usize::from(len));
        if r.short {
            return None;
        }
        if id == 1 {
            long = Record::new(body);
        }
    }
    for field in &mut fields {
        if *field == ALL_ONES {
            *field = long.u64();
        }
    }
    (!long.short).then_some(fields)
}
