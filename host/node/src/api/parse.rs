//! Parts of requests, read strictly: what is not understood is refused, never guessed.

use axum::http::{HeaderMap, Uri};
use moult_kv::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use moult_types::batch::CLIENT_NAME_BYTES_MAX;

use super::error::ApiError;

/// Header with a client's name.
pub(super) const CLIENT_HEADER: &str = "moult-client";
/// Header with the client's number of the transaction.
pub(super) const SEQ_HEADER: &str = "moult-seq";

/// The key of `/v1/kv/{key}`: everything behind the prefix, percent-decoded.
pub(super) fn key_of(uri: &Uri) -> Result<Vec<u8>, ApiError> {
    let encoded = uri.path().strip_prefix("/v1/kv/").unwrap_or_default();
    let key = percent_decode(encoded)
        .ok_or_else(|| ApiError::bad_request("the key has a `%` that no two hex digits follow"))?;
    match key.len() {
        0 => Err(ApiError::bad_request("the key is empty: PUT /v1/kv/{key}")),
        1..=KEY_BYTES_MAX => Ok(key),
        n => Err(ApiError::bad_request(format!("the key has {n} bytes, more than {KEY_BYTES_MAX}"))),
    }
}

/// `None` where a `%` is not followed by two hex digits.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let (high, low) = (hex_digit(digits[0])?, hex_digit(digits[1])?);
        decoded.push(high << 4 | low);
        rest = after;
    }
    Some(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The part of a path behind a prefix and before a suffix.
pub(super) fn segment<'a>(uri: &'a Uri, prefix: &str, suffix: &str) -> &'a str {
    let path = uri.path();
    path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)).unwrap_or_default()
}

/// A decimal number; what it is, is for the message.
pub(super) fn number(what: &str, text: &str) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        ApiError::bad_request(format!("{what} is no number of 64 bits: `{shown}`"))
    })
}

/// What `?expect=` asks for: hex digits, or `none` for a key that is not there.
pub(super) fn expect_of(text: &str) -> Result<Option<Vec<u8>>, ApiError> {
    if text == "none" {
        return Ok(None);
    }
    let value = hex::decode(text)
        .map_err(|e| ApiError::bad_request(format!("`expect` is neither hex digits nor `none`: {e}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(ApiError::too_large(format!("`expect` has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(Some(value))
}

/// Client and number from the headers: both, or none.
pub(super) fn client_of(headers: &HeaderMap) -> Result<Option<(Vec<u8>, u64)>, ApiError> {
    let (name, seq) = match (one(headers, CLIENT_HEADER)?, one(headers, SEQ_HEADER)?) {
        (None, None) => return Ok(None),
        (Some(name), Some(seq)) => (name, seq),
        _ => return Err(ApiError::bad_request("give both headers `Moult-Client` and `Moult-Seq`, or none")),
    };
    check_client(CLIENT_HEADER, name)?;
    let seq = std::str::from_utf8(seq).map_err(|_| ApiError::bad_request("`Moult-Seq` is no number"))?;
    Ok(Some((name.to_vec(), number("`Moult-Seq`", seq)?)))
}

/// A client's name holds what a header of HTTP can hold; the node's own names begin with a
/// zero byte.
pub(super) fn check_client(what: &str, name: &[u8]) -> Result<(), ApiError> {
    let n = name.len();
    if n == 0 || n > CLIENT_NAME_BYTES_MAX {
        return Err(ApiError::bad_request(format!(
            "`{what}` has {n} bytes; it has 1 to {CLIENT_NAME_BYTES_MAX}"
        )));
    }
    if name.iter().any(u8::is_ascii_control) {
        return Err(ApiError::bad_request(format!("`{what}` has control characters")));
    }
    Ok(())
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(ApiError::bad_request(format!("the header `{name}` is there twice"))),
        (value, None) => Ok(value.map(|value| value.as_bytes())),
    }
}

/// The parameters of a query string, by the names that a call knows.
pub(super) struct Params<'a, const N: usize>([Option<&'a str>; N]);

impl<'a, const N: usize> Params<'a, N> {
    /// Refuses what is not known: a misspelt `expect` must not write unconditionally.
    pub(super) fn parse(uri: &'a Uri, known: [&str; N]) -> Result<Self, ApiError> {
        let mut values = [None; N];
        for part in uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(position) = known.iter().position(|k| *k == name) else {
                let shown: String = name.chars().take(40).collect();
                let known = if N == 0 { "none".to_owned() } else { known.join(", ") };
                return Err(ApiError::bad_request(format!(
                    "unknown parameter `{shown}`; known here: {known}"
                )));
            };
            if values[position].replace(value).is_some() {
                return Err(ApiError::bad_request(format!("the parameter `{name}` is there twice")));
            }
        }
        Ok(Self(values))
    }

    /// By the position among the known names.
    pub(super) fn get(&self, position: usize) -> Option<&'a str> {
        self.0.get(position).copied().flatten()
    }

    /// A number, or what counts where it is left out.
    pub(super) fn number(&self, position: usize, what: &str, default: u64) -> Result<u64, ApiError> {
        self.get(position).map_or(Ok(default), |text| number(what, text))
    }
}

/// `?consistency=`: whether a read must show every acknowledged write.
pub(super) fn is_linearizable(consistency: Option<&str>) -> Result<bool, ApiError> {
    match consistency {
        None | Some("linearizable") => Ok(true),
        Some("local") => Ok(false),
        Some(_) => Err(ApiError::bad_request("`consistency` is `linearizable` or `local`")),
    }
}

#[cfg(test)]
#[path = "parse_test.rs"]
mod tests;
