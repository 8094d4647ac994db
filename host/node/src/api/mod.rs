//! The HTTP interface. `docs/API.md` is its manual.

use std::sync::Arc;

use crate::node::NodeError;
use crate::shared::Shared;

/// The listening interface.
pub(crate) struct Server {}

impl Server {
    pub(crate) async fn start(_shared: Arc<Shared>, _token: String) -> Result<Self, NodeError> {
        Ok(Self {})
    }

    pub(crate) async fn stop(self) {}
}
