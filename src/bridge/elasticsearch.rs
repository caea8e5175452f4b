//! Elasticsearch over HTTP: one endpoint for documents, four PUTs for templates.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method};
use serde::Deserialize;
use serde_json::Value;

use super::outcome::{self, Answer, Item};
use super::template::{self, DIALECTS, Dialect, Template};
use crate::config;
use crate::config::files::Etc;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// What is read of an answer that is not the one asked for.
const QUOTED: usize = 300;
const JSON: &str = "application/json";
/// Only what the outcome is made of.
const BULK_FILTER: &str =
    "errors,items.*.status,items.*.failure_store,items.*.error.type,items.*.error.reason,items.*.error.caused_by";

/// Why a request brought no outcome for its items.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot read {path}")]
    Credentials { path: String, source: std::io::Error },
    #[error("the certificate authorities in {path} cannot be used")]
    Certificates { path: String, source: reqwest::Error },
    #[error("{} of Elasticsearch has a character that a header cannot carry", .0)]
    Header(&'static str),
    #[error("{url} cannot be reached")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} answered {status}: {body}")]
    Refused { url: String, status: u16, body: String, retry_after: Option<Duration> },
    #[error("{url} did not answer as Elasticsearch does: {body}")]
    NotElasticsearch { url: String, body: String },
}

impl Failure {
    /// What is to be done about it.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Refused { status, .. } => outcome::of_answer(*status),
            Self::Unreachable { .. } => Answer::Retry,
            Self::Credentials { .. } | Self::Header(_) => Answer::Unauthorized,
            Self::Certificates { .. } | Self::NotElasticsearch { .. } => Answer::RetrySlowly,
        }
    }

    /// What the server asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub item: Item,
    pub status: u16,
    /// The type and the reason of the error, empty without one.
    pub kind: String,
    pub reason: String,
}

/// One Elasticsearch, at one or more addresses.
#[derive(Debug)]
pub struct Elasticsearch {
    urls: Vec<String>,
    etc: Etc,
    /// The address in use; the next one after a failure.
    current: AtomicUsize,
    /// Made for these certificate authorities.
    client: Mutex<Option<(Vec<u8>, Client)>>,
}

impl Elasticsearch {
    /// Connects to nothing yet.
    pub fn new(settings: &config::bridge::Elasticsearch, etc: &Etc) -> Self {
        let urls = settings.urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Self { urls, etc: etc.clone(), current: AtomicUsize::new(0), client: Mutex::new(None) }
    }

    /// Sends a `_bulk` request to a data stream; one outcome per document, in order.
    pub async fn bulk(&self, stream: &str, body: Bytes, documents: usize) -> Result<Vec<Written>, Failure> {
        let path = format!("{stream}/_bulk?filter_path={BULK_FILTER}");
        let (url, answer) = self.request(Method::POST, &path, "application/x-ndjson", body).await?;
        match serde_json::from_slice::<BulkAnswer>(&answer) {
            Ok(answer) if answer.items.len() == documents => Ok(answer.items.into_iter().map(written).collect()),
            _ => Err(Failure::NotElasticsearch { url, body: quote(&answer) }),
        }
    }

    /// Puts the templates, unless they are there in this version or a later one. Without the right to do so that is said
    /// in the log, and somebody else has to have done it.
    pub async fn bootstrap(&self, stream: &str) -> Result<(), Failure> {
        match self.put_templates(stream).await {
            Err(Failure::Refused { status: 403, url, body, .. }) => {
                tracing::warn!(url, answer = body, "no right to manage templates: they have to be there already");
                Ok(())
            }
            result => result,
        }
    }

    async fn put_templates(&self, stream: &str) -> Result<(), Failure> {
        let dialect = self.dialect().await?;
        for Template { path, body } in template::templates(dialect, stream) {
            let shown = self.get(&path).await?;
            if shown.is_some_and(|shown| template::is_current(&path, &shown, dialect)) {
                continue;
            }
            self.request(Method::PUT, &path, JSON, body.to_string().into()).await?;
            tracing::info!(template = path, version = template::VERSION, ?dialect, "put into Elasticsearch");
        }
        Ok(())
    }

    /// The best dialect that the server understands.
    async fn dialect(&self) -> Result<Dialect, Failure> {
        let mut last = None;
        for dialect in DIALECTS {
            let Template { path, body } = template::probe(dialect);
            match self.request(Method::POST, &path, JSON, body.to_string().into()).await {
                Ok(_) => return Ok(dialect),
                Err(failure @ Failure::Refused { status: 400, .. }) => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        last.map_or(Ok(Dialect::Plain), Err)
    }

    async fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.request(Method::GET, path, JSON, Bytes::new()).await {
            Ok((url, answer)) => serde_json::from_slice(&answer)
                .map(Some)
                .map_err(|_| Failure::NotElasticsearch { url, body: quote(&answer) }),
            Err(Failure::Refused { status: 404, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Returns the address that answered, for messages, and the answer.
    async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<(String, Bytes), Failure> {
        let place = self.current.load(Ordering::Relaxed);
        let url = self.urls.get(place % self.urls.len().max(1)).cloned().unwrap_or_default();
        let client = self.client().await?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(credentials) = credentials(&self.etc.elasticsearch_credentials()).await? {
            headers.insert(AUTHORIZATION, credentials);
        }
        let request = client.request(method, format!("{url}/{path}")).headers(headers).body(body);
        let unreachable = |source: reqwest::Error| {
            // The next attempt goes to the next address.
            self.current.store(place.wrapping_add(1), Ordering::Relaxed);
            Failure::Unreachable { url: url.clone(), source: source.without_url() }
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let answer = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok((url, answer));
        }
        if status.is_server_error() || status == 429 {
            self.current.store(place.wrapping_add(1), Ordering::Relaxed);
        }
        Err(Failure::Refused { url, status: status.as_u16(), body: reason_in(&answer), retry_after })
    }

    /// The client for the certificate authorities as they are in the file now.
    async fn client(&self) -> Result<Client, Failure> {
        let path = self.etc.elasticsearch_ca();
        let authorities = read(&path).await?.unwrap_or_default();
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = &*current
            && *of == authorities
        {
            return Ok(client.clone());
        }
        let unusable = |source| Failure::Certificates { path: path.display().to_string(), source };
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if !authorities.is_empty() {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(&authorities).map_err(unusable)?);
        } else if self.urls.iter().all(|url| url.starts_with("http://")) {
            // An image without the usual authorities can still speak plain HTTP.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(unusable)?;
        *current = Some((authorities, client.clone()));
        Ok(client)
    }
}

/// The `Authorization` header, from the files as they are now: a Secret may change at any time.
async fn credentials(directory: &Path) -> Result<Option<HeaderValue>, Failure> {
    if let Some(key) = read_text(&directory.join("apiKey")).await? {
        // Kibana shows the encoded form, the API the two parts of it.
        let key = if key.contains(':') { BASE64.encode(key) } else { key };
        return header(format!("ApiKey {key}"), "the API key").map(Some);
    }
    let Some(username) = read_text(&directory.join("username")).await? else { return Ok(None) };
    let password = read_text(&directory.join("password")).await?.unwrap_or_default();
    header(format!("Basic {}", BASE64.encode(format!("{username}:{password}"))), "the user name").map(Some)
}

fn header(value: String, what: &'static str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(value).map_err(|_| Failure::Header(what))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The text of a file without its last line end; `None` if there is no such file.
async fn read_text(path: &Path) -> Result<Option<String>, Failure> {
    let Some(bytes) = read(path).await? else { return Ok(None) };
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
}

async fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::Credentials { path: path.display().to_string(), source }),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn quote(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(QUOTED)]).into_owned()
}

/// The words of Elasticsearch's error, or what there is instead.
fn reason_in(answer: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(answer).unwrap_or_default();
    let error = &parsed["error"];
    if let Some(reason) = error.as_str() {
        return reason.to_owned();
    }
    match BulkError::deserialize(error) {
        Ok(error) if error.reason.is_some() => reason_of(&error),
        _ => quote(answer),
    }
}

#[derive(Deserialize)]
struct BulkAnswer {
    #[serde(default)]
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    create: BulkResult,
}

#[derive(Deserialize)]
struct BulkResult {
    status: u16,
    failure_store: Option<String>,
    error: Option<BulkError>,
}

#[derive(Deserialize)]
struct BulkError {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    reason: Option<String>,
    caused_by: Option<Box<BulkError>>,
}

fn written(item: BulkItem) -> Written {
    let BulkResult { status, failure_store, error } = item.create;
    let item = outcome::of_item(status, error.as_ref().map(|error| error.r#type.as_str()), failure_store.as_deref());
    let reason = error.as_ref().map(reason_of).unwrap_or_default();
    Written { item, status, kind: error.map(|error| error.r#type).unwrap_or_default(), reason }
}

fn reason_of(error: &BulkError) -> String {
    let own = error.reason.clone().unwrap_or_default();
    match &error.caused_by {
        Some(cause) => format!("{own}: {}", reason_of(cause)),
        None => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_of_an_answer_has_its_outcome_and_the_whole_reason() {
        let answer = br#"{"errors":true,"items":[
            {"create":{"status":201}},
            {"create":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"exists"}}},
            {"create":{"status":400,"error":{"type":"document_parsing_exception","reason":"failed to parse",
                "caused_by":{"type":"illegal_argument_exception","reason":"no date"}}}}]}"#;
        let answer: BulkAnswer = serde_json::from_slice(answer).unwrap();
        let written: Vec<_> = answer.items.into_iter().map(written).collect();
        assert_eq!(
            written.iter().map(|it| it.item).collect::<Vec<_>>(),
            [Item::Indexed, Item::Deduplicated, Item::Rejected]
        );
        assert_eq!(written[2].kind, "document_parsing_exception");
        assert_eq!(written[2].reason, "failed to parse: no date");
    }

    #[test]
    fn the_words_of_a_refusal_are_found_in_every_form_of_it() {
        assert_eq!(reason_in(br#"{"error":{"reason":"too many requests"},"status":429}"#), "too many requests");
        let nested =
            br#"{"error":{"reason":"invalid","caused_by":{"type":"t","reason":"unknown field"}},"status":400}"#;
        assert_eq!(reason_in(nested), "invalid: unknown field");
        assert_eq!(reason_in(br#"{"error":"no such path"}"#), "no such path");
        assert_eq!(reason_in(b"<html>502</html>"), "<html>502</html>");
    }

    #[tokio::test]
    async fn credentials_are_what_the_files_say_at_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let shown =
            async || credentials(directory.path()).await.unwrap().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(shown().await, None);
        write("username", "u\n");
        write("password", "p\n");
        assert_eq!(shown().await.as_deref(), Some("Basic dTpw"));
        write("apiKey", "id:key\n");
        assert_eq!(shown().await.as_deref(), Some("ApiKey aWQ6a2V5"));
        write("apiKey", "aWQ6a2V5");
        assert_eq!(shown().await.as_deref(), Some("ApiKey aWQ6a2V5"));
        write("apiKey", "\u{1}");
        assert!(matches!(credentials(directory.path()).await, Err(Failure::Header(_))));
    }
}
