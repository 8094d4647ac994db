//! What people write: genesis, node configuration, requests in JSON, names in hex. The files
//! of the node that read them are compiled here as they are, without the rest of the node.

use moult_types::{
    AuthorityId, ChainId, EpochIdentity, ModuleHash, PublicKey, Signature, TransactionId, decode, encode,
};

use crate::api_types::{OperatorVoteBody, ProposeBody};
use crate::config_file::NodeConfig;
use crate::genesis::{GenesisFile, PinFile};
use crate::sample;

/// First byte: what kind of text. The rest: the text.
pub(crate) fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => genesis(bytes),
        1 => configuration(bytes),
        2 => names(bytes),
        _ => requests(bytes),
    }
}

/// A genesis that is read can be written and read again, and one that is valid has one
/// encoding, a committee, and with them one chain.
fn genesis(bytes: &[u8]) {
    let Ok(file) = serde_json::from_slice::<GenesisFile>(bytes) else { return };
    let text = serde_json::to_string(&file).expect("it can be written");
    assert_eq!(serde_json::from_str::<GenesisFile>(&text).expect("and read"), file);
    let Ok(genesis) = file.to_genesis() else { return };
    assert!(genesis.manifest.committee().is_ok());
    assert_eq!(decode(&encode(&genesis)).as_ref(), Ok(&genesis));
}

/// A configuration that is accepted is written to the same configuration, and does not listen
/// beyond loopback without TLS.
fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = std::path::Path::new("moult.toml");
    let Ok(config) = NodeConfig::parse(text, path) else { return };
    let is_open = !config.api.listen.ip().is_loopback()
        || config.grpc_listen().is_some_and(|listen| !listen.ip().is_loopback());
    assert!(!is_open || config.api.tls_cert.is_some() && config.api.tls_key.is_some());
    assert!(config.limits.requests_max > 0 && config.limits.inputs_max > 0);
    let written = config.to_toml().expect("it can be written");
    let again = NodeConfig::parse(&written, path).expect("and read");
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
}

/// A request that is read is written and read again alike, and its pins are pins or refused
/// with a reason.
fn requests(bytes: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<ProposeBody>(bytes) {
        let text = serde_json::to_string(&body).expect("it can be written");
        assert_eq!(serde_json::from_str::<ProposeBody>(&text).expect("and read"), body);
        for pin in body.modules.values() {
            match pin.to_pin() {
                Ok(pin) => assert_eq!(PinFile::from(&pin).to_pin(), Ok(pin)),
                Err(reason) => assert!(!reason.is_empty()),
            }
        }
    }
    if let Ok(body) = serde_json::from_slice::<OperatorVoteBody>(bytes) {
        let text = serde_json::to_string(&body).expect("it can be written");
        assert_eq!(serde_json::from_str::<OperatorVoteBody>(&text).expect("and read"), body);
    }
}

/// A name that is read has one written form, up to case and the prefix of a hash.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    macro_rules! round_trip {
        ($($name:ty),*) => { $(
            match text.parse::<$name>() {
                Ok(value) => {
                    let written = value.to_string();
                    assert!(written.eq_ignore_ascii_case(text) || written.ends_with(&text.to_ascii_lowercase()));
                    assert_eq!(written.parse::<$name>().as_ref(), Ok(&value));
                }
                Err(error) => assert!(error.to_string().len() < 1024),
            }
        )* };
    }
    round_trip!(PublicKey, Signature, AuthorityId, ChainId, EpochIdentity, ModuleHash);
    if let Ok(id) = text.parse::<TransactionId>() {
        assert_eq!(id.to_string().parse::<TransactionId>(), Ok(id));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let manifest = sample::manifest();
    let file = GenesisFile {
        origin: None,
        fallbacks: Vec::new(),
        name: "chain".into(),
        time_ms: 1000,
        fault_model: manifest.fault_model,
        committee: manifest.members[..1].to_vec(),
        modules: manifest.modules.iter().map(|(world, pin)| (*world, pin.into())).collect(),
        limits: manifest.limits,
    };
    let genesis = serde_json::to_string(&file).expect("it can be written");
    let short = "genesis = \"g\"\nkey_file = \"k\"\ndata_dir = \"d\"\n[p2p]\nlisten = \"127.0.0.1:1\"\n\
                 [api]\nlisten = \"127.0.0.1:2\"\ntoken_file = \"t\"\n";
    let key = sample::member(0).key;
    let id = sample::client(7, b"").id().to_string();
    let configs = [
        short.to_owned(),
        format!("{short}tls_cert = \"c\"\ntls_key = \"k\"\n[grpc]\nenabled = false\n"),
        short.replace("127.0.0.1:2", "0.0.0.0:2"),
        format!("module_dirs = [\"m\"]\n{short}[grpc]\nlisten = \"[::1]:3\"\n[limits]\nbatch_bytes = 0\n"),
        short.replace("[api]", &format!("[[p2p.observers]]\nkey = \"{key}\"\naddress = \"a:1\"\n[api]")),
    ];
    let names = [key.to_string(), ModuleHash([1; 32]).to_string(), id, "00".repeat(64), "1.2.3".into()];
    let body = ProposeBody {
        fallbacks: None,
        modules: file.modules.clone(),
        committee: Some(file.committee.clone()),
        limits: Some(file.limits.clone()),
        not_before_ms: Some(7),
        ..ProposeBody::default()
    };
    let body = serde_json::to_string(&body).expect("it can be written");
    let vote = r#"{"approve":false,"reason":"no"}"#;
    let pin = r#"{"modules":{"engine":{"hash":"sha256:"#.to_owned()
        + &"01".repeat(32)
        + r#"","config_hex":"00ff"}}}"#;
    let mut seeds = vec![[&[0], genesis.as_bytes()].concat()];
    seeds.extend([&*body, vote, &*pin].iter().map(|text| [&[3], text.as_bytes()].concat()));
    seeds.extend(configs.iter().map(|text| [&[1], text.as_bytes()].concat()));
    seeds.extend(names.iter().map(|text| [&[2], text.as_bytes()].concat()));
    seeds
}
