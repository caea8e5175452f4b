//! The hash by which the operator knows that a pod has in force what it wrote.

use aws_lc_rs::digest::{Context, SHA256};

/// What a policy is made from: documents as they are written, byte for byte.
#[derive(Clone, Debug)]
pub struct Documents<'a, R, I> {
    /// `broker.json`.
    pub broker: &'a [u8],
    /// `jwks.json`.
    pub jwks: &'a [u8],
    /// `users.json`.
    pub users: &'a [u8],
    /// Names and contents of the revocations, in any order.
    pub revocations: R,
    /// Names and contents of what is known of other issuers, in any order.
    pub issuers: I,
}

/// The hash of documents, in hexadecimal digits.
pub fn digest<'a, R, I>(documents: Documents<'a, R, I>) -> String
where
    R: IntoIterator<Item = (&'a str, &'a [u8])>,
    I: IntoIterator<Item = (&'a str, &'a [u8])>,
{
    use std::fmt::Write as _;
    let mut context = Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        // With its length, so that no two lists of documents read alike.
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    add(documents.broker);
    add(documents.jwks);
    add(documents.users);
    let mut revocations: Vec<_> = documents.revocations.into_iter().collect();
    revocations.sort_unstable();
    for (name, content) in revocations {
        add(name.as_bytes());
        add(content);
    }
    let mut issuers: Vec<_> = documents.issuers.into_iter().collect();
    issuers.sort_unstable();
    for (name, content) in issuers {
        // No revocation has such a name.
        add(b"issuer");
        add(name.as_bytes());
        add(content);
    }
    context.finish().as_ref().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Named<'a> = [(&'a str, &'a str)];

    fn of_all(broker: &str, jwks: &str, revocations: &Named<'_>, issuers: &Named<'_>) -> String {
        fn bytes<'a>(all: &'a Named<'a>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
            all.iter().map(|(name, content)| (*name, content.as_bytes()))
        }
        let (revocations, issuers) = (bytes(revocations), bytes(issuers));
        digest(Documents { broker: broker.as_bytes(), jwks: jwks.as_bytes(), users: b"{}", revocations, issuers })
    }

    fn of(broker: &str, jwks: &str, revocations: &Named<'_>) -> String {
        of_all(broker, jwks, revocations, &[])
    }

    #[test]
    fn the_keys_of_other_issuers_count_in_any_order_and_are_no_revocations() {
        let all = [("issuer-1.json", "1"), ("issuer-2.json", "2")];
        let whole = of_all("b", "j", &[], &all);
        assert_eq!(whole, of_all("b", "j", &[], &[all[1], all[0]]));
        let changed = [all[0], ("issuer-2.json", "3")];
        for other in [of_all("b", "j", &[], &changed), of_all("b", "j", &[], &all[..1]), of("b", "j", &all)] {
            assert_ne!(other, whole);
        }
    }

    #[test]
    fn every_document_counts_and_the_order_of_revocations_does_not() {
        let all = [("before", "1"), ("sub.a", "2")];
        assert_eq!(of("b", "j", &all), of("b", "j", &[all[1], all[0]]));
        let others = [of("b", "j", &all[..1]), of("bj", "", &all), of("", "bj", &all), of("b", "j", &[])];
        for other in &others {
            assert_ne!(*other, of("b", "j", &all));
        }
        assert_ne!(others[1], others[2]);
    }
}
