//! The hashes that a password can be verified with: our own, and those that people bring along.

use std::num::NonZeroU32;

use argon2::password_hash::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

// A hash in a document may ask for at most this much, so that a wrong file cannot take the broker's memory or time: about
// a second of one core.
const MOST_MEMORY: u32 = 256 * 1024;
const MOST_PASSES: u32 = 16;
const MOST_BCRYPT: u32 = 14;
const MOST_ITERATIONS: u32 = 2_000_000;

/// No text of a hash is longer.
const LONGEST: usize = 512;
/// Bytes that a salt of Mosquitto may have; its own have 12 or 64.
const SALTS: std::ops::RangeInclusive<usize> = 1..=128;
/// Bytes of bcrypt's salt and digest, in its own base64.
const BCRYPT_TEXT: usize = 22 + 31;

/// Bytes from which on an allocation is one that goes back to the system when it is freed. Smaller ones the C library keeps
/// for each thread that made one: wrong passwords would cost hundreds of megabytes that never come back. Only the part
/// that is used becomes memory.
const RETURNED: usize = 40 * 1024 * 1024;

/// Why a text is not the hash of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("not the hash of a password; known are $argon2id$, $2a$, $2b$, $2y$, and Mosquitto's $7$ and $6$")]
    Unknown,
    #[error("not a hash of this kind: {0}")]
    Malformed(String),
    #[error("hashed with `{0}`; of its family only argon2id is known")]
    Algorithm(String),
    #[error("asks for {asked} {unit}; at most {most} are taken, so that a wrong file cannot stop the broker")]
    Expensive { asked: u32, unit: &'static str, most: u32 },
}

/// The parts of a hash.
#[derive(Debug)]
pub(super) enum Hash<'a> {
    /// Boxed, as it is many times larger than the others.
    Argon2id(Box<(PasswordHash<'a>, Params)>),
    /// The whole text, and its cost.
    Bcrypt(&'a str, u32),
    /// Mosquitto's `$7$`: PBKDF2 with HMAC-SHA512.
    Pbkdf2 { iterations: NonZeroU32, salt: Vec<u8>, digest: Vec<u8> },
    /// Mosquitto's `$6$`: SHA-512 of password and salt. Not the `$6$` of `/etc/shadow`.
    Sha512 { salt: Vec<u8>, digest: Vec<u8> },
}

impl<'a> Hash<'a> {
    pub fn parse(text: &'a str) -> Result<Self, HashError> {
        if text.len() > LONGEST {
            return Err(HashError::Malformed(format!("longer than {LONGEST} bytes")));
        }
        let parts: Vec<&str> = text.split('$').collect();
        match parts.as_slice() {
            ["", "2a" | "2b" | "2y", cost, rest] => read_bcrypt(text, cost, rest),
            ["", "7", iterations, salt, digest] => read_mosquitto(Some(iterations), salt, digest),
            ["", "6", salt, digest] => read_mosquitto(None, salt, digest),
            ["", "6", ..] => {
                Err(HashError::Malformed("$6$ is Mosquitto's $6$SALT$HASH, not that of /etc/shadow".into()))
            }
            ["", family, ..] if family.starts_with("argon2") => read_argon2id(text),
            _ => Err(HashError::Unknown),
        }
    }

    /// Whether the password is the one that was hashed. The comparison takes the same time wherever they differ.
    pub fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id(it) => is_of_argon2id(password, &it.0, &it.1).unwrap_or(false),
            Self::Bcrypt(text, _) => bcrypt::verify(password, text).unwrap_or(false),
            Self::Pbkdf2 { iterations, salt, digest } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, digest).is_ok()
            }
            Self::Sha512 { salt, digest } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                verify_slices_are_equal(context.finish().as_ref(), digest).is_ok()
            }
        }
    }

    /// The hash of no password that costs as much to verify as this one.
    pub fn of_nobody(&self) -> String {
        // Zeros: a digest that no password is known for.
        let zeros = |bytes: usize| STANDARD.encode(vec![0; bytes]);
        match self {
            Self::Argon2id(it) => {
                let hash = &it.0;
                let version = hash.version.map(|version| format!("v={version}$")).unwrap_or_default();
                let length = hash.hash.map_or(32, |output| output.len());
                let digest = zeros(length);
                format!("$argon2id${version}{}$bm9ib2R5IG5vYm9keSBubw${}", hash.params, digest.trim_end_matches('='))
            }
            Self::Bcrypt(_, cost) => format!("$2b${cost:02}${}", ".".repeat(BCRYPT_TEXT)),
            Self::Pbkdf2 { iterations, salt, digest } => {
                format!("$7${iterations}${}${}", zeros(salt.len()), zeros(digest.len()))
            }
            Self::Sha512 { salt, digest } => format!("$6${}${}", zeros(salt.len()), zeros(digest.len())),
        }
    }
}

fn read_argon2id(text: &str) -> Result<Hash<'_>, HashError> {
    let malformed = |error: argon2::password_hash::Error| HashError::Malformed(error.to_string());
    let hash = PasswordHash::new(text).map_err(malformed)?;
    if hash.algorithm != Algorithm::Argon2id.ident() {
        return Err(HashError::Algorithm(hash.algorithm.to_string()));
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(HashError::Malformed("the salt or the hash is missing".to_owned()));
    }
    let params = Params::try_from(&hash).map_err(malformed)?;
    at_most(params.m_cost(), "KiB", MOST_MEMORY)?;
    at_most(params.t_cost(), "passes", MOST_PASSES)?;
    Ok(Hash::Argon2id(Box::new((hash, params))))
}

fn read_bcrypt<'a>(text: &'a str, cost: &str, rest: &str) -> Result<Hash<'a>, HashError> {
    let parts = text.parse::<bcrypt::HashParts>().map_err(|error| HashError::Malformed(error.to_string()))?;
    let cost = cost.parse().ok().filter(|it: &u32| cost.len() == 2 && *it == parts.get_cost() && *it >= 4);
    let cost = cost.filter(|_| rest.len() == BCRYPT_TEXT);
    let cost = cost.ok_or_else(|| HashError::Malformed("not $2b$COST$ and 53 characters".into()))?;
    at_most(cost, "as bcrypt's cost", MOST_BCRYPT)?;
    Ok(Hash::Bcrypt(text, cost))
}

fn read_mosquitto<'a>(iterations: Option<&str>, salt: &str, digest: &str) -> Result<Hash<'a>, HashError> {
    let malformed = |what: &str| HashError::Malformed(what.to_owned());
    let decode = |text: &str| STANDARD.decode(text).map_err(|error| HashError::Malformed(error.to_string()));
    let (salt, digest) = (decode(salt)?, decode(digest)?);
    if !SALTS.contains(&salt.len()) || digest.len() != digest::SHA512_OUTPUT_LEN {
        return Err(malformed("not a salt of at most 128 bytes and a digest of 64, in base64"));
    }
    let Some(iterations) = iterations else { return Ok(Hash::Sha512 { salt, digest }) };
    let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
    let iterations = iterations.parse::<NonZeroU32>().ok().filter(|_| digits);
    let iterations = iterations.ok_or_else(|| malformed("the iterations are no number"))?;
    at_most(iterations.get(), "iterations", MOST_ITERATIONS)?;
    Ok(Hash::Pbkdf2 { iterations, salt, digest })
}

fn at_most(asked: u32, unit: &'static str, most: u32) -> Result<(), HashError> {
    if asked > most { Err(HashError::Expensive { asked, unit, most }) } else { Ok(()) }
}

fn is_of_argon2id(password: &[u8], hash: &PasswordHash<'_>, params: &Params) -> Option<bool> {
    let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).ok()?;
    let expected = hash.hash?;
    let (mut salt, mut found) = ([0; Salt::MAX_LENGTH], [0; Output::MAX_LENGTH]);
    let salt = hash.salt?.decode_b64(&mut salt).ok()?;
    let found = &mut found[..expected.len()];
    let mut memory = Vec::with_capacity(params.block_count().max(RETURNED / size_of::<Block>()));
    memory.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params.clone());
    argon2.hash_password_into_with_memory(password, salt, found, &mut memory).ok()?;
    Some(Output::new(found).ok()? == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `mosquitto_passwd`.
    const GEHEIM: [&str; 2] = [
        "$7$101$aqAL0dks6Vt5uMr4$AuHVYBuQFC0iOqU8Oq0lzxmfWhxsKytWpC5CpGIOuZ8+oVdNUtPDc+nKIvxyjfEXDoAC2aXJxI/L17I3G+rArw==",
        "$6$Y7OLZYJBdvLXh0LE$LnRxfmjCmWn7cjPvnl3gf1kb+tvabxa4fIfL1eDPfCX23+KbmBPv5xSwAh8nyiBKMQGVa28fBNvndFMBKsEQ5g==",
    ];
    /// From the test vectors of the C implementation.
    const U_STAR_U: [&str; 3] = [
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ];
    const ARGON2ID: &str = "$argon2id$v=19$m=64,t=1,p=1$bm9ib2R5IG5vYm9keSBubw$AAAAAAAAAAAAAAAAAAAAAA";

    fn verifies(password: &str, text: &str) -> bool {
        Hash::parse(text).unwrap().is_of(password.as_bytes())
    }

    #[test]
    fn hashes_of_mosquitto_and_of_bcrypt_verify_their_password_and_no_other() {
        for (password, text) in GEHEIM.iter().map(|it| ("geheim", it)).chain(U_STAR_U.iter().map(|it| ("U*U", it))) {
            assert!(verifies(password, text), "{text}");
            for wrong in ["", "Geheim", "geheim ", "U*U*", "U*"] {
                assert!(!verifies(wrong, text), "{wrong:?} {text}");
            }
        }
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let iterations = GEHEIM[0].replace("$101$", "$2000001$");
        let cost = U_STAR_U[0].replace("$05$", "$15$");
        let memory = ARGON2ID.replace("m=64", "m=4000000");
        for text in [&iterations, &cost, &memory, &ARGON2ID.replace("t=1", "t=17")] {
            let refused = Hash::parse(text);
            assert!(matches!(refused, Err(HashError::Expensive { .. })), "{text}: {refused:?}");
        }
        assert!(Hash::parse(&GEHEIM[0].replace("$101$", "$2000000$")).is_ok());
        assert!(Hash::parse(&U_STAR_U[0].replace("$05$", "$14$")).is_ok());
    }

    #[test]
    fn what_is_no_hash_is_an_error_and_never_a_password() {
        for text in [
            "",
            "geheim",
            "$",
            "$$",
            "$7$",
            "$7$101$$",
            "$7$0$aqAL0dks6Vt5uMr4$AAAA",
            "$7$-1$aqAL0dks6Vt5uMr4$AAAA",
            "$7$101$aqAL0dks6Vt5uMr4$AAAA",
            "$6$saltsalt$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
            "$2b$05$short",
            "$2b$5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyO!!",
            "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$argon2i$v=19$m=64,t=1,p=1$bm9ib2R5$AAAAAAAAAAAAAAAA",
        ] {
            assert!(Hash::parse(text).is_err(), "{text:?}");
        }
        assert!(Hash::parse(&format!("$7$101${}$AAAA", "A".repeat(1000))).is_err());
        let many = GEHEIM[0].replace("$101$", &format!("$+{}$", 101));
        assert!(Hash::parse(&many).is_err());
    }

    #[test]
    fn the_hash_of_nobody_is_of_the_same_kind_and_cost() {
        for text in GEHEIM.iter().chain(&U_STAR_U).chain([&ARGON2ID]) {
            let nobody = Hash::parse(text).unwrap().of_nobody();
            match (Hash::parse(text).unwrap(), Hash::parse(&nobody).unwrap()) {
                (Hash::Argon2id(one), Hash::Argon2id(other)) => {
                    let ((one, cost), (other, same)) = (*one, *other);
                    assert_eq!(one.hash.unwrap().len(), other.hash.unwrap().len());
                    assert_eq!(
                        (cost.m_cost(), cost.t_cost(), cost.p_cost()),
                        (same.m_cost(), same.t_cost(), same.p_cost())
                    );
                }
                (Hash::Bcrypt(_, cost), Hash::Bcrypt(_, same)) => assert_eq!(cost, same),
                (Hash::Pbkdf2 { iterations, salt, .. }, Hash::Pbkdf2 { iterations: same, salt: other, .. }) => {
                    assert_eq!((iterations, salt.len()), (same, other.len()));
                }
                (Hash::Sha512 { .. }, Hash::Sha512 { .. }) => {}
                (one, other) => unreachable!("{one:?} {other:?}"),
            }
            assert!(!verifies("geheim", &nobody) && !verifies("", &nobody), "{nobody}");
        }
    }
}
