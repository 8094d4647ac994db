//! QUIC's own settings, with every default that is dangerous or slow overridden.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moult_crypto::NodeKey;
use moult_types::codec::sha256;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    IdleTimeout, MtuDiscoveryConfig, NoneTokenLog, NoneTokenStore, ServerConfig, TransportConfig,
    ValidationTokenConfig, VarInt,
};

use crate::class::Class;
use crate::error::NetError;
use crate::identity::ResetKey;
use crate::limits::NetLimits;

/// Settings of a connection; those between two nodes of one machine use larger packets.
pub(crate) fn transport(limits: &NetLimits, loopback: bool) -> TransportConfig {
    let window = limits.stream_window_bytes as u64;
    let all_windows = window * Class::ALL.len() as u64;
    let mtu_max = if loopback { limits.mtu_loopback_max } else { limits.mtu_max };
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(mtu_max);
    // Within a machine lost packets mean a full socket buffer and never a smaller path;
    // quinn would take a burst of them for a black hole and go down to the minimum.
    let mtu_min = if loopback { mtu_max } else { 1200 };
    let mut congestion = CubicConfig::default();
    congestion.initial_window(limits.initial_congestion_window_bytes);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(8)).max_ack_delay(Some(Duration::from_millis(10)));

    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(limits.streams_max))
        .max_idle_timeout(Some(IdleTimeout::from(var_int(limits.idle_timeout_ms))))
        .keep_alive_interval(Some(Duration::from_millis(limits.keep_alive_ms)))
        .stream_receive_window(var_int(window))
        // quinn's default is no bound at all.
        .receive_window(var_int(all_windows))
        // As large as what the peer allows: a class the peer does not read leaves room for
        // the others.
        .send_window(all_windows)
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(limits.initial_rtt_ms))
        .mtu_discovery_config(Some(mtu))
        .min_mtu(mtu_min)
        .congestion_controller_factory(Arc::new(congestion))
        .ack_frequency_config(Some(acks))
        .allow_spin(false);
    config
}

/// Settings for connections others dial.
pub(crate) fn server(
    tls: rustls::ServerConfig,
    limits: &NetLimits,
    loopback: bool,
) -> Result<ServerConfig, NetError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| NetError::Tls(e.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut tokens = ValidationTokenConfig::default();
    // Tokens across connections would let a replay stand for an address.
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    config
        .transport_config(Arc::new(transport(limits, loopback)))
        .validation_token_config(tokens)
        .retry_token_lifetime(Duration::from_secs(5))
        // Nodes do not roam; a moved one dials again.
        .migration(false)
        // Between the arrival of a packet and the accept loop: twice what may be pending.
        .max_incoming(limits.handshakes_max * 2)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_MAX * limits.handshakes_max as u64);
    Ok(config)
}

/// Settings for dialling.
pub(crate) fn client(
    tls: rustls::ClientConfig,
    limits: &NetLimits,
    loopback: bool,
) -> Result<ClientConfig, NetError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| NetError::Tls(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(limits, loopback)));
    config.token_store(Arc::new(NoneTokenStore));
    Ok(config)
}

/// Opens the socket and the endpoint on it.
pub(crate) fn endpoint(
    keys: &NodeKey,
    bind: SocketAddr,
    limits: &NetLimits,
    server: ServerConfig,
) -> Result<Endpoint, NetError> {
    let fail = |source| NetError::Bind { address: bind, source };
    let socket = UdpSocket::bind(bind).map_err(fail)?;
    enlarge_buffers(&socket, limits.socket_buffer_bytes).map_err(fail)?;
    let reset_key = ResetKey::new(keys).map_err(|e| NetError::Tls(format!("the key cannot sign: {e}")))?;
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    let ids = ConnectionIds::new()?;
    config.cid_generator(move || Box::new(ids.clone()));
    config
        .max_udp_payload_size(limits.mtu_max.max(limits.mtu_loopback_max).max(1472))
        .map_err(|e| NetError::Tls(e.to_string()))?;
    Endpoint::new(config, Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(fail)
}

/// Best effort: the kernel caps what it gives (`net.core.rmem_max`), and says so in the log.
fn enlarge_buffers(socket: &UdpSocket, bytes: usize) -> std::io::Result<()> {
    let state = quinn::udp::UdpSocketState::new(socket.into())?;
    let sent = state.set_send_buffer_size(socket.into(), bytes);
    let received = state.set_recv_buffer_size(socket.into(), bytes);
    if let Err(error) = sent.and(received) {
        tracing::warn!(target: "network", %error, bytes, "socket buffers not set");
    }
    let got = state.recv_buffer_size(socket.into()).unwrap_or(0);
    if got < bytes {
        tracing::info!(target: "network", asked_bytes = bytes, got_bytes = got, "receive buffer is smaller");
    }
    Ok(())
}

/// Random connection ids. quinn's default ones carry a check value with a key of the
/// process, so that a restarted node would drop packets of forgotten connections in silence
/// instead of answering with a reset.
#[derive(Clone)]
struct ConnectionIds {
    seed: [u8; 32],
    drawn: Arc<AtomicU64>,
}

impl ConnectionIds {
    fn new() -> Result<Self, NetError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| NetError::Randomness(e.to_string()))?;
        Ok(Self { seed, drawn: Arc::default() })
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed);
        let digest = sha256(&[self.seed.as_slice(), &n.to_le_bytes()].concat());
        ConnectionId::new(&digest.0[..CONNECTION_ID_BYTES])
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn var_int(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

const CONNECTION_ID_BYTES: usize = 8;

const INCOMING_BUFFER_BYTES_MAX: u64 = 16 * 1024;
