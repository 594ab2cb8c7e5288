//! Checksum over records: it detects whether two tables differ, and whether bytes are those that were written. It is no
//! defence against deliberate collisions; against chance and bugs 64 bits suffice.

/// A running digest over a sequence of byte strings; their boundaries count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one byte string. Each step maps states one to one, so two strings that differ in one word never collide.
    pub fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.step(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.step(u64::from_le_bytes(last));
        self.step(bytes.len() as u64);
    }

    fn step(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    pub fn value(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    fn digest(strings: &[&[u8]]) -> u64 {
        let mut digest = Digest::new();
        strings.iter().for_each(|bytes| digest.add(bytes));
        digest.value()
    }

    #[test]
    fn every_bit_and_boundary_counts() {
        let bytes: Vec<u8> = (0..61).collect();
        let whole = digest(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest(&[&flipped]), whole, "bit {bit}");
        }
        for at in 0..bytes.len() {
            assert_ne!(digest(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
            assert_ne!(digest(&[&bytes[..at]]), whole, "ends at {at}");
        }
        assert_ne!(digest(&[&[0]]), digest(&[&[0, 0]]));
    }
}
