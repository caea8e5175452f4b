//! Random bytes from the system.

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// So many random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the library's generator is seeded when it is first used, and then gives bytes");
    bytes
}

/// A password of 192 random bits, in characters that need no quoting anywhere.
pub fn password() -> String {
    URL_SAFE_NO_PAD.encode(bytes::<24>())
}

/// A number between 0.8 and 1.2.
pub fn jitter() -> f64 {
    let [byte] = bytes::<1>();
    0.8 + 0.4 * f64::from(byte) / 255.0
}
