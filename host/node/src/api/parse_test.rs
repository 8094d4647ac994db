use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use proptest::prelude::*;

use super::*;

#[test]
fn keys_are_percent_decoded() {
    for (path, key) in [
        ("/v1/kv/a", b"a".as_slice()),
        ("/v1/kv/a%2Fb", b"a/b"),
        ("/v1/kv/a/b", b"a/b"),
        ("/v1/kv/%00%ff%FF", b"\0\xff\xff"),
        ("/v1/kv/+", b"+"),
        ("/v1/kv/%25", b"%"),
    ] {
        assert_eq!(key_of(&path.parse().expect("a URI")).expect("a key"), key, "{path}");
    }
    for path in ["/v1/kv/", "/v1/kv/%", "/v1/kv/%4", "/v1/kv/%zz", "/v1/kv/a%", "/v1/kv/%+1"] {
        let refused = key_of(&path.parse().expect("a URI")).expect_err(path);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let long: Uri = format!("/v1/kv/{}", "%41".repeat(1025)).parse().expect("a URI");
    assert_eq!(key_of(&long).expect_err("too long").status(), StatusCode::BAD_REQUEST);
}

#[test]
fn parameters_are_known_and_there_once() {
    let uri: Uri = "/x?expect=00&&".parse().expect("a URI");
    assert_eq!(Params::parse(&uri, ["expect"]).expect("parsed").get(0), Some("00"));
    for query in ["/x?expected=00", "/x?expect=1&expect=2", "/x?Expect=00"] {
        let uri: Uri = query.parse().expect("a URI");
        assert!(Params::parse(&uri, ["expect"]).is_err(), "{query}");
    }
}

#[test]
fn a_client_has_a_name_and_a_number() {
    let headers = |pairs: &[(&'static str, &[u8])]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    };
    assert_eq!(client_of(&headers(&[])).expect("none"), None);
    let both = headers(&[(CLIENT_HEADER, b"c\xff"), (SEQ_HEADER, b"18446744073709551615")]);
    assert_eq!(client_of(&both).expect("both"), Some((b"c\xff".to_vec(), u64::MAX)));
    for wrong in [
        headers(&[(CLIENT_HEADER, b"c")]),
        headers(&[(SEQ_HEADER, b"1")]),
        headers(&[(CLIENT_HEADER, b""), (SEQ_HEADER, b"1")]),
        headers(&[(CLIENT_HEADER, &[b'x'; 65]), (SEQ_HEADER, b"1")]),
        headers(&[(CLIENT_HEADER, b"c"), (SEQ_HEADER, b"-1")]),
        headers(&[(CLIENT_HEADER, b"c"), (SEQ_HEADER, b"+1")]),
        headers(&[(CLIENT_HEADER, b"c"), (SEQ_HEADER, b"18446744073709551616")]),
        headers(&[(CLIENT_HEADER, b"c"), (CLIENT_HEADER, b"d"), (SEQ_HEADER, b"1")]),
    ] {
        assert_eq!(client_of(&wrong).expect_err("refused").status(), StatusCode::BAD_REQUEST);
    }
}

fn encode(key: &[u8], all: bool) -> String {
    key.iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' if !all => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

proptest! {
    #[test]
    fn every_key_survives_its_encoding(key in proptest::collection::vec(any::<u8>(), 1..300), all: bool) {
        let uri: Uri = format!("/v1/kv/{}", encode(&key, all)).parse().expect("a URI");
        prop_assert_eq!(key_of(&uri).expect("a key"), key);
    }

    #[test]
    fn any_path_is_a_key_or_refused(text in "[!-~]{0,80}") {
        if let Ok(uri) = format!("/v1/kv/{text}").parse::<Uri>() {
            match key_of(&uri) {
                Ok(key) => prop_assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX),
                Err(e) => prop_assert!(e.status().is_client_error()),
            }
        }
    }

    #[test]
    fn any_query_is_parsed_or_refused(text in "[!-~]{0,80}") {
        if let Ok(uri) = format!("/x?{text}").parse::<Uri>() {
            match Params::parse(&uri, ["expect", "consistency"]) {
                Ok(params) => {
                    let _ = params.number(0, "x", 1).map_err(|e| assert!(e.status().is_client_error()));
                    let _ = is_linearizable(params.get(1)).map_err(|e| assert!(e.status().is_client_error()));
                }
                Err(e) => prop_assert!(e.status().is_client_error()),
            }
        }
    }

    #[test]
    fn any_expectation_is_read_or_refused(text in ".{0,80}", value in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Err(e) = expect_of(&text) {
            prop_assert!(e.status().is_client_error());
        }
        prop_assert_eq!(expect_of(&hex::encode(&value)).expect("hex"), Some(value));
    }

    #[test]
    fn any_headers_are_read_or_refused(name in proptest::collection::vec(any::<u8>(), 0..80), seq in proptest::collection::vec(any::<u8>(), 0..24)) {
        let mut headers = HeaderMap::new();
        for (key, value) in [(CLIENT_HEADER, name), (SEQ_HEADER, seq)] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(key, value);
            }
        }
        if let Err(e) = client_of(&headers) {
            prop_assert_eq!(e.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn any_bytes_are_json_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-z0-9 ]{0,200}") {
        use crate::api::body::parse_json;
        use crate::api_types::{OperatorVoteBody, ProposeBody};
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            let _ = parse_json::<ProposeBody>(bytes).map_err(|e| assert_eq!(e.status(), StatusCode::BAD_REQUEST));
            let _ = parse_json::<OperatorVoteBody>(bytes).map_err(|e| assert_eq!(e.status(), StatusCode::BAD_REQUEST));
        }
    }
}
