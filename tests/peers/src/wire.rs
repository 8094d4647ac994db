//! One put over each system's ordinary client protocol: gRPC, one call for one put.
//!
//! etcd: `etcdserverpb.KV/Put`, answered when the entry is committed and applied. Moult:
//! `moult.v1.Consensus/Submit`, answered when the transaction is final and executed; or, if asked
//! for, on a stream. Both go through the same HTTP/2 client with the same settings.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use moult_kv::Command;
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::proto::consensus_client::ConsensusClient;
use crate::proto::{Channel, SubmitRequest, Transaction, receipt};
use crate::stream::Stream;

const PUT: &str = "/etcdserverpb.KV/Put";

/// Which system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The yardstick.
    Etcd,
    /// What is measured against it.
    Moult,
}

impl System {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Moult => "Moult",
        }
    }
}

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutRequest {
    /// At most 1.5 MiB with the value.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// What it is set to.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `etcdserverpb.PutResponse`, as far as it is used.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutResponse {
    /// Where the store is.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResponseHeader {
    /// Of the cluster.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Of the node that answers.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// Of the store after the put; an empty store has 1.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Of the leader.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// A client at one node, on a connection that its clones share.
#[derive(Clone)]
pub struct Client(Protocol);

#[derive(Clone)]
enum Protocol {
    Etcd(Grpc<Channel>),
    Moult(ConsensusClient<Channel>),
    MoultStream(Stream),
}

impl Client {
    /// Opens a connection; with `is_stream` one stream on it carries the puts to Moult (etcd has
    /// no counterpart).
    ///
    /// # Errors
    /// Nothing listens there, or it speaks no HTTP/2.
    pub async fn connect(system: System, node: SocketAddr, is_stream: bool) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(node).await.with_context(|| format!("{node} takes no connection"))?;
        stream.set_nodelay(true)?;
        let channel = Channel::connect(stream).await.with_context(|| format!("{node} speaks no HTTP/2"))?;
        let origin = format!("http://{node}").parse().context("an address that is no origin")?;
        Ok(Self(match system {
            System::Etcd => Protocol::Etcd(Grpc::with_origin(channel, origin)),
            System::Moult => {
                let client = ConsensusClient::with_origin(channel, origin);
                if is_stream {
                    Protocol::MoultStream(Stream::open(client).await?)
                } else {
                    Protocol::Moult(client)
                }
            }
        }))
    }

    /// Sets a key; returns once the system acknowledged it.
    ///
    /// # Errors
    /// It did not, or not as it should.
    pub async fn put(&mut self, key: Vec<u8>, value: Bytes) -> anyhow::Result<()> {
        match &mut self.0 {
            Protocol::Etcd(client) => {
                client.ready().await.context("the connection is gone")?;
                let request = Request::new(PutRequest { key: key.into(), value });
                let codec = ProstCodec::<PutRequest, PutResponse>::default();
                let answer = client.unary(request, PathAndQuery::from_static(PUT), codec).await;
                let header =
                    answer.map_err(refusal)?.into_inner().header.context("an answer without a header")?;
                ensure!(header.revision > 1, "a put that left the store at revision {}", header.revision);
            }
            Protocol::MoultStream(stream) => stream.put(command(key, value)).await?,
            Protocol::Moult(client) => {
                let payload = command(key, value);
                let transaction = Some(Transaction { payload, ..Transaction::default() });
                let answer = client.submit(SubmitRequest { transaction }).await;
                let receipt =
                    answer.map_err(refusal)?.into_inner().receipt.context("an answer without a receipt")?;
                let is_applied = receipt.status() == receipt::Status::Executed && receipt.code == 0;
                ensure!(is_applied, "a put that was not applied: {receipt:?}");
            }
        }
        Ok(())
    }
}

fn command(key: Vec<u8>, value: Bytes) -> Bytes {
    Command::Put { key, value: value.into() }.encode().into()
}

/// Without the metadata, which differ from call to call.
fn refusal(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_put_has_the_bytes_that_etcd_reads() {
        // Fields 1 (key) and 2 (value), both length-delimited.
        let request = PutRequest { key: Bytes::from_static(b"foo"), value: Bytes::from_static(b"bar") };
        assert_eq!(request.encode_to_vec(), b"\x0a\x03foo\x12\x03bar");
    }

    #[test]
    fn an_answer_is_read_from_the_bytes_that_etcd_writes() {
        // Header (1): cluster_id 0xcdf818194e3a8c32, member_id 0x8e9e05c52164694d, revision 2, raft_term 300.
        let bytes = [
            0x0a, 0x1b, 0x08, 0xb2, 0x98, 0xea, 0xf1, 0x94, 0x83, 0x86, 0xfc, 0xcd, 0x01, 0x10, 0xcd, 0xd2,
            0x91, 0x8b, 0xd2, 0xb8, 0x81, 0xcf, 0x8e, 0x01, 0x18, 0x02, 0x20, 0xac, 0x02,
        ];
        let header = PutResponse::decode(&bytes[..]).expect("decoded").header.expect("a header");
        assert_eq!((header.cluster_id, header.member_id), (0xcdf8_1819_4e3a_8c32, 0x8e9e_05c5_2164_694d));
        assert_eq!((header.revision, header.raft_term), (2, 300));
        // A field of a later version (prev_kv, 2) does not matter.
        let later = [&bytes[..], &[0x12, 0x02, 0x0a, 0x00]].concat();
        assert!(PutResponse::decode(&later[..]).is_ok());
    }
}
