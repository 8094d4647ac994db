//! The calls, in one long life of one node.

use std::net::SocketAddr;

use tokio::runtime::Runtime;

use crate::client::Client;
use crate::setup::Setup;

pub(crate) fn run(runtime: &Runtime) {
    let setup = Setup::new();
    let node = runtime.block_on(setup.start());
    let address = node.api_address();
    wait_until_ready(address);
    println!("{}", Client::new(address).get("/v1/status").json());
    let mut c = Client::new(address);
    println!("{}", c.put("/v1/kv/a", b"1").json());
    println!("{:?}", c.get("/v1/kv/a"));
    runtime.block_on(node.stop()).expect("stopped");
}

fn wait_until_ready(address: SocketAddr) {
    let mut client = Client::new(address);
    for _ in 0..600 {
        if client.get("/readyz").status == 200 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("not ready: {}", client.get("/readyz").json());
}
