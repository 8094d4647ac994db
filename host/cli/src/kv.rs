//! `moult kv`: the key-value store of the default application.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use moult_kv::{Command as KvCommand, decode_value};
use moult_node::api_types::{ReceiptBody, Written};
use serde_json::json;

use crate::client::{ApiArgs, Client, ClientError, path_segment};
use crate::failure::negative;
use crate::output::{self, say};

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set a value; returns when the write is final.
    Put {
        key: String,
        value: String,
        #[command(flatten)]
        call: Call,
    },
    /// Print a value, never one older than any acknowledged write.
    Get {
        key: String,
        /// As this node has it: fast, and perhaps behind what was acknowledged elsewhere.
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        call: Call,
    },
    /// Remove a key.
    Delete {
        key: String,
        #[command(flatten)]
        call: Call,
    },
    /// Set or remove a key if its present value is the expected one; exit code 3 if not.
    Cas {
        key: String,
        /// What to put there; left out: nothing.
        value: Option<String>,
        /// What must be there: bytes in hex, or `none` for no key.
        #[arg(long, value_name = "HEX|none", value_parser = parse_expect)]
        expect: Expect,
        #[command(flatten)]
        call: Call,
    },
}

/// Where, and as whom.
#[derive(ClapArgs)]
struct Call {
    #[command(flatten)]
    api: ApiArgs,
    /// A name for this client, so that a repeated call is carried out once (at the same node).
    #[arg(long, requires = "seq", value_name = "NAME")]
    client: Option<String>,
    /// The client's number for this call.
    #[arg(long, requires = "client", value_name = "N")]
    seq: Option<u64>,
    /// Key and value are given (and printed) in hex.
    #[arg(long)]
    hex: bool,
}

#[derive(Clone)]
struct Expect(Option<Vec<u8>>);

fn parse_expect(text: &str) -> Result<Expect, String> {
    if text == "none" {
        return Ok(Expect(None));
    }
    hex::decode(text)
        .map(|bytes| Expect(Some(bytes)))
        .map_err(|e| format!("expected hex digits or `none`: {e}"))
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Put { key, value, call } => {
            let command = KvCommand::Put { key: call.bytes(&key)?, value: call.bytes(&value)? };
            write(&call, &command, json).await
        }
        Command::Delete { key, call } => {
            let command = KvCommand::Delete { key: call.bytes(&key)? };
            write(&call, &command, json).await
        }
        Command::Cas { key, value, expect, call } => {
            let value = value.map(|value| call.bytes(&value)).transpose()?;
            let command = KvCommand::CompareAndSwap { key: call.bytes(&key)?, expect: expect.0, value };
            write(&call, &command, json).await
        }
        Command::Get { key, local, call } => get(&call, &key, local, json).await,
    }
}

impl Call {
    fn bytes(&self, text: &str) -> anyhow::Result<Vec<u8>> {
        if self.hex {
            hex::decode(text).with_context(|| format!("`{text}` is not hex"))
        } else {
            Ok(text.into())
        }
    }

    async fn send(&self, client: &mut Client, command: &KvCommand) -> Result<ReceiptBody, ClientError> {
        let seq = self.seq.map(|seq| seq.to_string());
        let mut headers = vec![("content-type", "application/octet-stream")];
        if let (Some(name), Some(seq)) = (&self.client, &seq) {
            headers.extend([("moult-client", name.as_str()), ("moult-seq", seq.as_str())]);
        }
        client.send_bytes("POST", "/v1/tx", &headers, &command.encode()).await
    }
}

async fn write(call: &Call, command: &KvCommand, json: bool) -> anyhow::Result<()> {
    let mut client = call.api.client()?;
    let receipt = call.send(&mut client, command).await?;
    let (status, code) = (receipt.status.as_str(), receipt.code);
    if (status, code) == ("executed", Some(0)) {
        if json {
            return output::json(&Written { index: receipt.index, id: receipt.id });
        }
        say!("final in block {} ({})", receipt.index, receipt.id);
        return Ok(());
    }
    if json {
        output::json(&receipt)?;
    }
    Err(negative(match (status, code) {
        ("executed", Some(1)) => {
            format!("nothing changed: the present value is {}", present(&receipt, call.hex))
        }
        ("executed", Some(2)) => "the application does not know this command: is it kv?".into(),
        ("executed", Some(3)) => "nothing changed: key or value is too large".into(),
        ("stale", _) => {
            "the number is older than this client's window: whether it was carried out is not known any more"
                .into()
        }
        _ => format!("nothing changed: the application {status} (code {code:?})"),
    }))
}

/// What a failed compare-and-swap found.
fn present(receipt: &ReceiptBody, as_hex: bool) -> String {
    let bytes = receipt.output_hex.as_deref().and_then(|text| hex::decode(text).ok());
    match bytes.and_then(|bytes| decode_value(&bytes).ok()) {
        Some(Some(value)) if as_hex => hex::encode(value),
        Some(Some(value)) => format!("`{}` (hex {})", String::from_utf8_lossy(&value), hex::encode(&value)),
        Some(None) => "none: the key is not there".into(),
        None => "not told".into(),
    }
}

async fn get(call: &Call, key: &str, local: bool, json: bool) -> anyhow::Result<()> {
    let mut client = call.api.client()?;
    let consistency = if local { "?consistency=local" } else { "" };
    let path = format!("/v1/kv/{}{consistency}", path_segment(&call.bytes(key)?));
    let value = match client.call("GET", &path, &[], b"").await {
        Ok((_, value)) => value,
        Err(error) if error.status() == Some(404) => {
            return Err(negative(format!("there is no key `{key}`")));
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        let as_text = std::str::from_utf8(&value).ok();
        return output::json(&json!({ "key": key, "value": as_text, "value_hex": hex::encode(&value) }));
    }
    if call.hex {
        say!("{}", hex::encode(value));
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&value)?;
    if std::io::IsTerminal::is_terminal(&out) {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
