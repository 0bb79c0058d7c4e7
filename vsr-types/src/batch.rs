//! What a prepare carries: the requests of many clients, each with the checksum its client made.
//!
//! A bit that flips at the primary between receiving an operation and computing the batch's checksum
//! would be replicated faithfully, and every digest would agree on the wrong bytes. So the client's
//! own checksum travels with the operation through the log and is verified again immediately before
//! execution, on every replica (M2).
//!
//! ```text
//! | BatchHeader 16 | RequestHeader 56 | operation ... | RequestHeader 56 | operation ... |
//! ```
//!
//! A request frame's body is exactly one `RequestHeader` and its operation, so the primary copies it
//! into the batch as it is. Its frame's `checksum_body` *is* the client's checksum (which covers
//! everything after itself), so that the bytes are read once, not twice, to be trusted.

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;

use crate::limits::{BATCH_HEADER_SIZE, BATCH_REQUESTS_MAX, REQUEST_HEADER_SIZE};
use crate::{
    Checksum, ClientId, Epoch, RequestNumber, SessionNumber, checksum, checksum_behind_first,
};

/// The header of one request, made by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RequestHeader {
    checksum: Checksum,
    size: u32,
    /// The client process.
    pub client: ClientId,
    /// The op that registered its session; 0 in the register itself.
    pub session: SessionNumber,
    /// The epoch of that op.
    pub epoch: Epoch,
    /// 0 registers the session, then +1 each.
    pub request: RequestNumber,
    /// What kind of operation this is: an [`Operation`].
    pub operation: u8,
    reserved: [u8; 7],
}

const_assert_eq!(size_of::<RequestHeader>(), REQUEST_HEADER_SIZE);

/// What an operation asks of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Opens a session. Empty.
    Register = 1,
    /// For the state machine.
    Apply = 2,
}

impl Operation {
    /// From the field of [`RequestHeader`].
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Register),
            2 => Some(Self::Apply),
            _ => None,
        }
    }
}

impl RequestHeader {
    /// A header for one request, not sealed yet.
    #[must_use]
    pub fn new(
        operation: Operation,
        client: ClientId,
        epoch: Epoch,
        session: SessionNumber,
        request: RequestNumber,
    ) -> Self {
        Self {
            client,
            epoch,
            session,
            request,
            operation: operation as u8,
            ..Self::zeroed()
        }
    }

    /// Computes the client's checksum over this header and `operation`.
    ///
    /// # Panics
    /// When `operation` is larger than [`crate::limits::OPERATION_SIZE_MAX`].
    pub fn seal(&mut self, operation: &[u8]) {
        assert!(
            operation.len() <= crate::limits::OPERATION_SIZE_MAX,
            "an operation must fit into a batch"
        );
        self.size = (REQUEST_HEADER_SIZE + operation.len()) as u32;
        self.checksum = self.computed_checksum(operation);
    }

    fn computed_checksum(&self, operation: &[u8]) -> Checksum {
        crate::Hasher::new()
            .update(&bytemuck::bytes_of(self)[4..])
            .update(operation)
            .finish()
    }

    /// The checksum the client made over this header and the operation.
    #[must_use]
    #[inline]
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// The size of header and operation together, in bytes.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> usize {
        self.size as usize
    }
}

/// The checksum that the request in `bytes` carries, if it is right for all of them.
#[inline]
pub(crate) fn request_checksum(bytes: &[u8]) -> Option<Checksum> {
    let sealed = Checksum::new(u32::from_le_bytes(*bytes.first_chunk()?));
    (checksum_behind_first(bytes) == sealed).then_some(sealed)
}

/// One request as it lies in a frame or a batch: header and operation in one piece.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    header: RequestHeader,
    bytes: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request at the beginning of `bytes`, if its size and kind make sense. Its checksum is not
    /// verified here; see [`Self::is_intact`].
    #[must_use]
    #[inline]
    pub fn first_in(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..REQUEST_HEADER_SIZE)?;
        let header: RequestHeader = bytemuck::pod_read_unaligned(head);
        let right = header.size() >= REQUEST_HEADER_SIZE
            && Operation::from_raw(header.operation).is_some()
            && header.reserved == [0; 7];
        if !right {
            return None;
        }
        Some(Self {
            header,
            bytes: bytes.get(..header.size())?,
        })
    }

    /// Whether the checksum that the client made is right (M2).
    #[must_use]
    #[inline]
    pub fn is_intact(&self) -> bool {
        request_checksum(self.bytes).is_some()
    }

    /// The header.
    #[must_use]
    #[inline]
    pub const fn header(&self) -> &RequestHeader {
        &self.header
    }

    /// The operation.
    #[must_use]
    #[inline]
    pub fn operation(&self) -> &'a [u8] {
        &self.bytes[REQUEST_HEADER_SIZE..]
    }

    /// Header and operation, as they go into a batch.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct BatchHeader {
    count: u32,
    size: u32,
    checksum: Checksum,
    reserved: u32,
}

const_assert_eq!(size_of::<BatchHeader>(), BATCH_HEADER_SIZE);

impl BatchHeader {
    fn computed_checksum(&self) -> Checksum {
        checksum(&bytemuck::bytes_of(self)[..8])
    }
}

/// What is wrong with the body of a prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Shorter than a batch's header, or its size is not the body's.
    Size,
    /// The batch's header is damaged.
    Header,
    /// More requests than bytes can hold.
    Count,
}

/// The requests of one prepare.
///
/// [`Batch::parse`] trusts the batch's header; the requests are checked one by one while iterating,
/// because that is where their bytes are read anyway.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    count: u32,
    requests: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Reads the header of the batch in `body`.
    ///
    /// # Errors
    /// When the header does not describe `body`.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, BatchError> {
        let (head, requests) = body
            .split_at_checked(BATCH_HEADER_SIZE)
            .ok_or(BatchError::Size)?;
        let header: BatchHeader = bytemuck::pod_read_unaligned(head);
        if header.checksum != header.computed_checksum() || header.reserved != 0 {
            return Err(BatchError::Header);
        }
        if header.size as usize != body.len() {
            return Err(BatchError::Size);
        }
        if header.count > BATCH_REQUESTS_MAX
            || header.count as usize * REQUEST_HEADER_SIZE > requests.len()
        {
            return Err(BatchError::Count);
        }
        Ok(Self {
            count: header.count,
            requests,
        })
    }

    /// How many requests it says it holds.
    #[must_use]
    #[inline]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The requests in order. Ends early, with [`Requests::is_whole`] false, where the bytes do not
    /// form a request.
    #[must_use]
    #[inline]
    pub const fn requests(&self) -> Requests<'a> {
        Requests {
            left: self.count,
            bytes: self.requests,
        }
    }
}

/// Iterates over the requests of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl Requests<'_> {
    /// Whether every request was found and no byte is left over.
    #[must_use]
    #[inline]
    pub const fn is_whole(&self) -> bool {
        self.left == 0 && self.bytes.is_empty()
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    #[inline]
    fn next(&mut self) -> Option<Request<'a>> {
        if self.left == 0 {
            return None;
        }
        let request = Request::first_in(self.bytes)?;
        self.left -= 1;
        self.bytes = &self.bytes[request.bytes.len()..];
        Some(request)
    }
}

/// Fills a buffer with a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    count: u32,
    size: usize,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            count: 0,
            size: BATCH_HEADER_SIZE,
        }
    }

    /// How many requests are in it.
    #[must_use]
    #[inline]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes of the buffer are used.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Whether a request of `size` bytes fits into a batch of at most `size_max` bytes.
    #[must_use]
    #[inline]
    pub const fn has_room(&self, size: usize, size_max: usize) -> bool {
        self.count < BATCH_REQUESTS_MAX && self.size + size <= size_max
    }

    /// Appends `request` to the batch in `buffer`.
    ///
    /// # Panics
    /// When the buffer is too small; see [`Self::has_room`].
    #[inline]
    pub fn push(&mut self, buffer: &mut [u8], request: &Request<'_>) {
        assert!(
            self.has_room(request.bytes.len(), buffer.len()),
            "the caller asked for room"
        );
        buffer[self.size..self.size + request.bytes.len()].copy_from_slice(request.bytes);
        self.size += request.bytes.len();
        self.count += 1;
    }

    /// Writes the batch's header into `buffer` and returns the size of the whole batch.
    pub fn finish(self, buffer: &mut [u8]) -> usize {
        let mut header = BatchHeader {
            count: self.count,
            size: self.size as u32,
            checksum: Checksum::default(),
            reserved: 0,
        };
        header.checksum = header.computed_checksum();
        buffer[..BATCH_HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(buffer: &'a mut [u8], number: u64, operation: &[u8]) -> Request<'a> {
        let mut header = RequestHeader::new(
            Operation::Apply,
            ClientId::new(77),
            Epoch::ZERO,
            SessionNumber::new(1),
            RequestNumber::new(number),
        );
        header.seal(operation);
        buffer[..REQUEST_HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
        buffer[REQUEST_HEADER_SIZE..header.size()].copy_from_slice(operation);
        Request::first_in(&buffer[..header.size()]).expect("a whole request")
    }

    fn batch_of_three(batch: &mut [u8; 512]) -> usize {
        let mut builder = BatchBuilder::new();
        for (number, operation) in [(1, &b"one"[..]), (2, b""), (3, b"three")] {
            let mut buffer = [0; 128];
            builder.push(batch, &request(&mut buffer, number, operation));
        }
        builder.finish(batch)
    }

    #[test]
    fn a_batch_returns_what_went_in() {
        let mut buffer = [0; 512];
        let size = batch_of_three(&mut buffer);
        let batch = Batch::parse(&buffer[..size]).expect("a good batch");
        assert_eq!(batch.count(), 3);
        let mut requests = batch.requests();
        let operations: [&[u8]; 3] =
            core::array::from_fn(|_| requests.next().expect("three").operation());
        assert_eq!(operations, [&b"one"[..], b"", b"three"]);
        assert!(requests.is_whole());
        assert!(batch.requests().all(|request| request.is_intact()));
    }

    #[test]
    fn every_flipped_bit_of_a_batch_is_found() {
        let mut buffer = [0; 512];
        let size = batch_of_three(&mut buffer);
        let is_good = |bytes: &[u8]| {
            let Ok(batch) = Batch::parse(bytes) else {
                return false;
            };
            let mut requests = batch.requests();
            let intact = requests.by_ref().all(|request| request.is_intact());
            intact && requests.is_whole()
        };
        assert!(is_good(&buffer[..size]));
        for bit in 0..size * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !is_good(&buffer[..size]),
                "bit {bit} of the batch is not covered"
            );
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn sizes_that_lie_end_the_iteration() {
        let mut buffer = [0; 512];
        let size = batch_of_three(&mut buffer);
        // The first request claims to reach beyond the batch.
        buffer[BATCH_HEADER_SIZE + 4..BATCH_HEADER_SIZE + 8]
            .copy_from_slice(&u32::MAX.to_le_bytes());
        let mut requests = Batch::parse(&buffer[..size])
            .expect("the header is right")
            .requests();
        assert!(requests.next().is_none());
        assert!(!requests.is_whole());
        assert_eq!(Batch::parse(&buffer[..8]).err(), Some(BatchError::Size));
        assert_eq!(
            Batch::parse(&buffer[..size - 1]).err(),
            Some(BatchError::Size)
        );
    }
}
