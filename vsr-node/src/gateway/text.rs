//! A short text inside its owner: what a client says of itself needs no memory of its own.

/// At most `N` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortText<const N: usize> {
    size: u8,
    bytes: [u8; N],
}

impl<const N: usize> Default for ShortText<N> {
    fn default() -> Self {
        Self {
            size: 0,
            bytes: [0; N],
        }
    }
}

impl<const N: usize> ShortText<N> {
    /// Becomes `text`; false, with nothing changed, when that is too long.
    pub(super) fn set(&mut self, text: &[u8]) -> bool {
        const { assert!(N <= u8::MAX as usize, "the size is one byte") };
        let Some(room) = self.bytes.get_mut(..text.len()) else {
            return false;
        };
        room.copy_from_slice(text);
        self.size = text.len() as u8;
        true
    }

    /// The text.
    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.size)]
    }
}
