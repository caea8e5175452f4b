//! What an answer of Elasticsearch means for the documents that it speaks of. The tables are the rules.

use std::ops::RangeInclusive;

/// What becomes of one document of a bulk request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// It is in the data stream.
    Indexed,
    /// It was there already, from a delivery before this one.
    Deduplicated,
    /// Elasticsearch put it into its own failure store.
    FailureStore,
    /// Not now.
    Retry,
    /// Not until somebody changes something that is not the document: rights, a missing index, a closed one.
    RetrySlowly,
    /// Never: it goes to the dead letters.
    Rejected,
}

/// By the item's status. The first row that contains it holds.
const ITEMS: &[(RangeInclusive<u16>, Item)] = &[
    (200..=299, Item::Indexed),
    // The operation is always `create`: a conflict is the document itself.
    (409..=409, Item::Deduplicated),
    (429..=429, Item::Retry),
    (500..=599, Item::Retry),
    (401..=401, Item::RetrySlowly),
    (403..=404, Item::RetrySlowly),
    (400..=499, Item::Rejected),
];

/// Errors of a status that would mean a rejection, but are not the document's.
const NOT_THE_DOCUMENTS: &[&str] = &["index_closed_exception", "cluster_block_exception"];

/// The outcome of an item by its status, the type of its error, and its `failure_store` field.
pub fn of_item(status: u16, error: Option<&str>, failure_store: Option<&str>) -> Item {
    let item = find(ITEMS, status).unwrap_or(Item::RetrySlowly);
    match item {
        Item::Indexed if failure_store == Some("used") => Item::FailureStore,
        Item::Rejected if error.is_some_and(|kind| NOT_THE_DOCUMENTS.contains(&kind)) => Item::RetrySlowly,
        item => item,
    }
}

/// What an answer says of the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Each item has its own status.
    Items,
    /// All of it again, later.
    Retry,
    /// All of it again, when somebody has seen to the credentials.
    Unauthorized,
    /// All of it again, when somebody has seen to what is at that address.
    RetrySlowly,
    /// In two halves; a document that is alone is rejected.
    Split,
}

/// By the HTTP status. The first row that contains it holds.
const ANSWERS: &[(RangeInclusive<u16>, Answer)] = &[
    (200..=299, Answer::Items),
    (401..=401, Answer::Unauthorized),
    (403..=403, Answer::Unauthorized),
    (408..=408, Answer::Retry),
    (429..=429, Answer::Retry),
    (500..=599, Answer::Retry),
    // 400 blames the request for one of its documents: halving finds it.
    (400..=400, Answer::Split),
    (413..=413, Answer::Split),
];

/// The meaning of an HTTP status.
pub fn of_answer(status: u16) -> Answer {
    find(ANSWERS, status).unwrap_or(Answer::RetrySlowly)
}

fn find<T: Copy>(table: &[(RangeInclusive<u16>, T)], status: u16) -> Option<T> {
    table.iter().find(|(statuses, _)| statuses.contains(&status)).map(|&(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Item, of_answer, of_item};

    #[test]
    fn each_status_of_an_item_has_its_outcome() {
        for (status, outcome) in [
            (200, Item::Indexed),
            (201, Item::Indexed),
            (400, Item::Rejected),
            (401, Item::RetrySlowly),
            (403, Item::RetrySlowly),
            (404, Item::RetrySlowly),
            (409, Item::Deduplicated),
            (413, Item::Rejected),
            (429, Item::Retry),
            (500, Item::Retry),
            (503, Item::Retry),
            (0, Item::RetrySlowly),
        ] {
            assert_eq!(of_item(status, None, None), outcome, "{status}");
        }
    }

    #[test]
    fn what_is_not_the_documents_fault_is_not_rejected() {
        assert_eq!(of_item(400, Some("index_closed_exception"), None), Item::RetrySlowly);
        assert_eq!(of_item(400, Some("document_parsing_exception"), None), Item::Rejected);
    }

    #[test]
    fn a_document_in_the_failure_store_is_not_counted_as_indexed() {
        assert_eq!(of_item(201, None, Some("used")), Item::FailureStore);
        assert_eq!(of_item(201, None, Some("not_applicable_or_unknown")), Item::Indexed);
    }

    #[test]
    fn each_http_status_has_its_meaning() {
        for (status, answer) in [
            (200, Answer::Items),
            (302, Answer::RetrySlowly),
            (400, Answer::Split),
            (401, Answer::Unauthorized),
            (403, Answer::Unauthorized),
            (404, Answer::RetrySlowly),
            (413, Answer::Split),
            (429, Answer::Retry),
            (502, Answer::Retry),
            (503, Answer::Retry),
            (504, Answer::Retry),
        ] {
            assert_eq!(of_answer(status), answer, "{status}");
        }
    }
}
