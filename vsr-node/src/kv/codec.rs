//! The packed operation between the gateway and the machine, and the packed reply back.
//!
//! ```text
//! operation: count u32 | entry ...
//! entry:     size u32 (of what follows) | opcode u8 | 0 u8 | argc u16 | argument ...
//! argument:  length u32 | bytes
//! Exec:      argument 0 = watches u32, then per watch: key length u32 | key | version u64
//!            argument 1.. = one queued command each: opcode u8 | 0 u8 | argc u16 | argument ...
//! reply:     executed u32 | per executed entry: length u32 | RESP3 bytes
//! ```
//!
//! Little endian, unaligned, nothing is copied to read it. One operation carries many commands so
//! that the ordering of many clients' commands costs one request. An argument list does not repeat
//! the command's name.
//!
//! Writing ([`OperationBuilder`]) and reading ([`Entries`], [`ReplyReader`]) allocate nothing.

use super::commands::Opcode;

/// The size of an operation without entries.
pub const OPERATION_HEADER_SIZE: usize = 4;
/// What an entry adds to its arguments.
pub const ENTRY_HEADER_SIZE: usize = 8;
/// What an argument adds to its bytes.
pub const ARGUMENT_HEADER_SIZE: usize = 4;
/// What a reply adds to the replies of its entries, and each entry to its own.
pub const REPLY_HEADER_SIZE: usize = 4;

/// The builder's storage cannot take the entry; nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operation's buffer is full")]
pub struct Full;

/// The bytes are no packed operation or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed operation or reply")]
pub struct Malformed;

/// Packs commands into storage of a fixed size: a `Vec<u8>`, a boxed slice or a `&mut [u8]`.
///
/// It never grows its storage. Every method that adds something leaves the operation as it was when
/// it does not fit.
///
/// ```
/// use vsr_node::kv::{Opcode, OperationBuilder};
/// let mut builder = OperationBuilder::new(vec![0; 256]);
/// builder.push(Opcode::Set, &[b"key", b"value"]).expect("fits");
/// assert_eq!(builder.count(), 1);
/// assert_eq!(builder.operation().len(), 4 + 8 + 4 + 3 + 4 + 5);
/// ```
#[derive(Clone, Debug)]
pub struct OperationBuilder<B> {
    storage: B,
    /// Where the operation starts: bytes before it belong to the caller (a request header).
    start: usize,
    used: usize,
    count: u32,
    /// Where the open entry starts, or nothing is open.
    open: Option<usize>,
    argc: u16,
    overflow: bool,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> OperationBuilder<B> {
    /// An empty operation at the start of `storage`.
    ///
    /// # Panics
    /// When `storage` is smaller than [`OPERATION_HEADER_SIZE`].
    #[must_use]
    pub fn new(storage: B) -> Self {
        Self::at(storage, 0)
    }

    /// An empty operation from byte `start` of `storage` on; the bytes before it are left alone.
    ///
    /// # Panics
    /// When less than [`OPERATION_HEADER_SIZE`] bytes are left after `start`.
    #[must_use]
    pub fn at(storage: B, start: usize) -> Self {
        let mut builder = Self {
            storage,
            start,
            used: 0,
            count: 0,
            open: None,
            argc: 0,
            overflow: false,
        };
        builder.clear();
        builder
    }

    /// Forgets all entries; the storage is kept.
    pub fn clear(&mut self) {
        let header = self.start..self.start + OPERATION_HEADER_SIZE;
        self.storage.as_mut()[header].fill(0);
        self.used = self.start + OPERATION_HEADER_SIZE;
        self.count = 0;
        self.open = None;
        self.overflow = false;
    }

    /// How many commands it holds.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether it holds no command.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many arguments the open entry, or else the last one, has.
    #[must_use]
    pub const fn argc(&self) -> u16 {
        self.argc
    }

    /// The bytes left for further entries.
    #[must_use]
    pub fn room(&self) -> usize {
        self.storage.as_ref().len() - self.used
    }

    /// The packed operation.
    #[must_use]
    pub fn operation(&self) -> &[u8] {
        assert!(self.open.is_none(), "an entry is still open");
        &self.storage.as_ref()[self.start..self.used]
    }

    /// The whole storage up to the end of the operation, with the caller's bytes before it.
    #[must_use]
    pub fn storage(&self) -> &[u8] {
        &self.storage.as_ref()[..self.used]
    }

    /// The same, to be written to (the caller's header).
    pub fn storage_mut(&mut self) -> &mut [u8] {
        let used = self.used;
        &mut self.storage.as_mut()[..used]
    }

    /// Gives the storage back.
    #[must_use]
    pub fn into_storage(self) -> B {
        self.storage
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push(&mut self, opcode: Opcode, arguments: &[&[u8]]) -> Result<(), Full> {
        self.begin(opcode);
        for argument in arguments {
            self.argument(argument);
        }
        self.end()
    }

    /// Opens an entry; follow it with arguments and [`Self::end`].
    pub fn begin(&mut self, opcode: Opcode) {
        assert!(self.open.is_none(), "one entry at a time");
        self.open = Some(self.used);
        self.argc = 0;
        self.overflow = false;
        self.write(&[0, 0, 0, 0, opcode.byte(), 0, 0, 0]);
    }

    /// Adds an argument to the open entry. That it does not fit is said by [`Self::end`].
    pub fn argument(&mut self, bytes: &[u8]) {
        self.count_argument();
        self.write_sized(bytes);
    }

    /// Adds the watch list of an open [`Opcode::Exec`] entry, its first argument: keys and the
    /// versions they had when they were watched.
    pub fn watches<'a>(&mut self, watches: impl IntoIterator<Item = (&'a [u8], u64)>) {
        let at = self.begin_nested(&[0; 4]);
        let mut count: u32 = 0;
        for (key, version) in watches {
            self.write_sized(key);
            self.write(&version.to_le_bytes());
            count += 1;
        }
        self.end_nested(at, |body| body[..4].copy_from_slice(&count.to_le_bytes()));
    }

    /// Adds a queued command to an open [`Opcode::Exec`] entry.
    pub fn queued<'a>(&mut self, opcode: Opcode, arguments: impl IntoIterator<Item = &'a [u8]>) {
        let at = self.begin_nested(&[opcode.byte(), 0, 0, 0]);
        let mut argc: usize = 0;
        for argument in arguments {
            self.write_sized(argument);
            argc += 1;
        }
        let Ok(argc) = u16::try_from(argc) else {
            self.overflow = true;
            return;
        };
        self.end_nested(at, |body| body[2..4].copy_from_slice(&argc.to_le_bytes()));
    }

    /// Closes the open entry.
    ///
    /// # Errors
    /// [`Full`] when it did not fit (in bytes, or in the 65,535 arguments of an entry); it is gone.
    pub fn end(&mut self) -> Result<(), Full> {
        let entry = self.open.take().expect("end() follows begin()");
        if self.overflow {
            self.used = entry;
            self.overflow = false;
            return Err(Full);
        }
        let size = u32::try_from(self.used - entry - 4).expect("an operation fits into 32 bits");
        self.count += 1;
        let (start, count, argc) = (self.start, self.count, self.argc);
        let bytes = self.storage.as_mut();
        bytes[entry..entry + 4].copy_from_slice(&size.to_le_bytes());
        bytes[entry + 6..entry + 8].copy_from_slice(&argc.to_le_bytes());
        bytes[start..start + 4].copy_from_slice(&count.to_le_bytes());
        Ok(())
    }

    /// Gives up the open entry, if any.
    pub fn abandon(&mut self) {
        if let Some(entry) = self.open.take() {
            self.used = entry;
            self.overflow = false;
        }
    }

    /// Opens an argument whose length is not known yet; returns where its body starts.
    fn begin_nested(&mut self, head: &[u8; 4]) -> usize {
        self.count_argument();
        self.write(&[0; 4]);
        let at = self.used;
        self.write(head);
        at
    }

    fn end_nested(&mut self, at: usize, patch: impl FnOnce(&mut [u8])) {
        if self.overflow {
            return;
        }
        let used = self.used;
        let size = u32::try_from(used - at).expect("an operation fits into 32 bits");
        let bytes = self.storage.as_mut();
        bytes[at - 4..at].copy_from_slice(&size.to_le_bytes());
        patch(&mut bytes[at..used]);
    }

    fn count_argument(&mut self) {
        assert!(self.open.is_some(), "arguments belong to an open entry");
        match self.argc.checked_add(1) {
            Some(argc) => self.argc = argc,
            None => self.overflow = true,
        }
    }

    fn write_sized(&mut self, bytes: &[u8]) {
        let Ok(size) = u32::try_from(bytes.len()) else {
            self.overflow = true;
            return;
        };
        self.write(&size.to_le_bytes());
        self.write(bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        let used = self.used;
        match self.storage.as_mut().get_mut(used..used + bytes.len()) {
            Some(room) if !self.overflow => {
                room.copy_from_slice(bytes);
                self.used += bytes.len();
            }
            _ => self.overflow = true,
        }
    }
}

/// A cursor over packed bytes; every step is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[inline]
    pub(super) fn take(&mut self, size: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(size).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let size = self.u32()? as usize;
        self.take(size)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// One command of an operation: its opcode and its arguments, not yet checked against its syntax.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What to do.
    pub opcode: Opcode,
    argc: u16,
    arguments: Cursor<'a>,
}

impl<'a> Entry<'a> {
    /// From the bytes after the entry's size: also the form of a queued command.
    ///
    /// # Errors
    /// [`Malformed`] when the opcode is unknown or the header incomplete. The arguments are checked
    /// by [`Self::is_well_formed`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let [opcode, flags, low, high] = cursor.array()?;
        if flags != 0 {
            return Err(Malformed);
        }
        Ok(Self {
            opcode: Opcode::from_byte(opcode).ok_or(Malformed)?,
            argc: u16::from_le_bytes([low, high]),
            arguments: cursor,
        })
    }

    /// How many arguments it says it has.
    #[must_use]
    #[inline]
    pub const fn argc(&self) -> usize {
        self.argc as usize
    }

    /// The arguments in order. It ends early when the bytes are malformed.
    #[must_use]
    #[inline]
    pub const fn arguments(&self) -> Arguments<'a> {
        Arguments {
            left: self.argc,
            cursor: self.arguments,
        }
    }

    /// Argument `index`, from 0; empty when there is none. Walks over those before it.
    #[must_use]
    #[inline]
    pub fn argument(&self, index: usize) -> &'a [u8] {
        self.arguments().nth(index).unwrap_or_default()
    }

    /// Whether the arguments fill the entry exactly.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let mut cursor = self.arguments;
        for _ in 0..self.argc {
            if cursor.sized().is_err() {
                return false;
            }
        }
        cursor.is_empty()
    }
}

/// The arguments of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.sized().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}

/// The entries of an operation or query.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    left: u32,
    cursor: Cursor<'a>,
}

impl<'a> Entries<'a> {
    /// Reads the count.
    ///
    /// # Errors
    /// [`Malformed`] when there is none, or it is larger than what follows can hold.
    #[inline]
    pub fn parse(operation: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(operation);
        let left = cursor.u32()?;
        if left as usize > cursor.0.len() / ENTRY_HEADER_SIZE {
            return Err(Malformed);
        }
        Ok(Self { left, cursor })
    }

    /// How many entries are left.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.left as usize
    }

    /// Whether none are left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Whether nothing follows the last entry; ask when all were taken.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.left == 0 && self.cursor.is_empty()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.cursor.sized().and_then(Entry::parse))
    }
}

/// Splits an [`Opcode::Exec`] entry's first argument into watches.
#[derive(Clone, Copy, Debug)]
pub struct Watches<'a> {
    left: u32,
    cursor: Cursor<'a>,
}

impl<'a> Watches<'a> {
    /// Reads the count.
    ///
    /// # Errors
    /// [`Malformed`] when there is none, or it is larger than what follows can hold.
    pub fn parse(argument: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(argument);
        let left = cursor.u32()?;
        if left as usize > cursor.0.len() / 12 {
            return Err(Malformed);
        }
        Ok(Self { left, cursor })
    }

    /// Whether nothing follows the last watch; ask when all were taken.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.left == 0 && self.cursor.is_empty()
    }
}

impl<'a> Iterator for Watches<'a> {
    type Item = Result<(&'a [u8], u64), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let key = match self.cursor.sized() {
            Ok(key) => key,
            Err(malformed) => return Some(Err(malformed)),
        };
        Some(self.cursor.u64().map(|version| (key, version)))
    }
}

/// Reads a packed reply: an iterator over the RESP3 bytes of each executed entry, in order.
#[derive(Clone, Copy, Debug)]
pub struct ReplyReader<'a> {
    executed: u32,
    left: u32,
    cursor: Cursor<'a>,
}

impl<'a> ReplyReader<'a> {
    /// Checks the whole reply.
    ///
    /// # Errors
    /// [`Malformed`] when lengths and bytes do not agree.
    pub fn parse(reply: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(reply);
        let executed = cursor.u32()?;
        let reader = Self {
            executed,
            left: executed,
            cursor,
        };
        for _ in 0..executed {
            cursor.sized()?;
        }
        if cursor.is_empty() {
            Ok(reader)
        } else {
            Err(Malformed)
        }
    }

    /// How many entries of the operation were executed: fewer than it has when the replies of the
    /// rest did not fit; send those again.
    #[must_use]
    pub const fn executed(&self) -> u32 {
        self.executed
    }
}

impl<'a> Iterator for ReplyReader<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.sized().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        let mut builder = OperationBuilder::at(vec![7; 300], 56);
        builder.push(Opcode::Get, &[b"a"]).expect("fits");
        builder.push(Opcode::DbSize, &[]).expect("fits");
        builder.begin(Opcode::Exec);
        builder.watches([(&b"k"[..], 9)]);
        builder.queued(Opcode::Set, [&b"k"[..], b"v"]);
        builder.end().expect("fits");
        assert!(builder.storage()[..56].iter().all(|byte| *byte == 7));

        let mut entries = Entries::parse(builder.operation()).expect("packed");
        assert_eq!(entries.len(), 3);
        let get = entries.next().expect("first").expect("well formed");
        assert_eq!(
            (get.opcode, get.argc(), get.argument(0)),
            (Opcode::Get, 1, &b"a"[..])
        );
        let size = entries.next().expect("second").expect("well formed");
        assert_eq!((size.opcode, size.argc()), (Opcode::DbSize, 0));
        let exec = entries.next().expect("third").expect("well formed");
        assert!(exec.is_well_formed());
        let mut watches = Watches::parse(exec.argument(0)).expect("packed");
        assert_eq!(watches.next(), Some(Ok((&b"k"[..], 9))));
        assert!(watches.next().is_none() && watches.is_complete());
        let queued = Entry::parse(exec.argument(1)).expect("packed");
        assert_eq!(queued.arguments().collect::<Vec<_>>(), [&b"k"[..], b"v"]);
        assert!(entries.next().is_none() && entries.is_complete());
    }

    #[test]
    fn an_entry_that_does_not_fit_leaves_the_operation_as_it_was() {
        for size in 4..200 {
            let mut builder = OperationBuilder::new(vec![0; size]);
            let mut pushed = 0;
            while builder.push(Opcode::Set, &[b"key", b"some value"]).is_ok() {
                pushed += 1;
            }
            assert_eq!(pushed, (size - 4) / 29);
            builder.begin(Opcode::Exec);
            builder.watches([(&[1; 200][..], 1)]);
            builder.queued(Opcode::Get, [&[1; 200][..]]);
            assert_eq!(builder.end(), Err(Full));
            let entries = Entries::parse(builder.operation()).expect("packed");
            assert_eq!(entries.len(), pushed);
            assert!(
                entries
                    .into_iter()
                    .all(|entry| entry.expect("whole").is_well_formed())
            );
        }
    }

    #[test]
    fn replies_are_checked_as_a_whole() {
        let reply = [2, 0, 0, 0, 3, 0, 0, 0, b'_', 13, 10, 0, 0, 0, 0];
        let reader = ReplyReader::parse(&reply).expect("well formed");
        assert_eq!(reader.executed(), 2);
        assert_eq!(reader.collect::<Vec<_>>(), [&b"_\r\n"[..], b""]);
        assert!(ReplyReader::parse(&reply[..14]).is_err());
        assert!(ReplyReader::parse(&[0, 0, 0, 0, 1]).is_err());
        assert!(ReplyReader::parse(&[]).is_err());
    }
}
