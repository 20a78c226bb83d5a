//! Bytes of a fuzzer as decisions. Where they end everything is zero, so that a short input is a simple one.

/// Takes decisions off the front of an input.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// The decisions that `bytes` stand for.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// Is nothing left?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
    /// A number of `N` bytes.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }
    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
    /// One of these.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
    /// A number that is small, at a border, or any.
    pub fn number(&mut self) -> u64 {
        const BORDERS: [u64; 8] =
            [u64::MAX, 1 << 32, (1 << 28) - 1, 1 << 28, u32::MAX as u64, i64::MAX as u64, 1 << 44, u64::MAX - (1 << 32)];
        match self.byte() % 6 {
            0 => self.byte().into(),
            1 => self.u16().into(),
            2 => self.u32().into(),
            3 => self.u64(),
            4 => self.of(&BORDERS),
            _ => self.of(&BORDERS).wrapping_add(u64::from(self.byte())).wrapping_sub(128),
        }
    }
}
