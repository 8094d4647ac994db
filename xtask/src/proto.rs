//! The gRPC interface's Rust code, checked in: no build of a node needs a protobuf compiler,
//! nor the crates that generate code.

use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;

const FOLDER: &str = "host/node/proto";
const FILE: &str = "moult/v1/consensus.proto";
/// Of the module with the generated code.
const OUT: &str = "host/node/src/proto";
/// What reflection tells clients: the description without its comments.
const DESCRIPTION: &str = "moult.v1.bin";

/// Writes code and description anew.
pub(crate) fn run(root: &Path) -> Result<()> {
    generate(root, &root.join(OUT))
}

fn generate(root: &Path, out: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    let mut files = protox::compile([folder.join(FILE)], [&folder])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".moult.v1")
        .out_dir(out)
        .compile_fds(files.clone())
        .context("cannot generate the code")?;
    for file in &mut files.file {
        file.source_code_info = None;
    }
    let path = out.join(DESCRIPTION);
    std::fs::write(&path, files.encode_to_vec()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_code_is_what_the_interface_says() {
        let (root, fresh) = (crate::root(), tempfile::tempdir().expect("a folder"));
        generate(&root, fresh.path()).expect("generated");
        for entry in std::fs::read_dir(fresh.path()).expect("read") {
            let name = entry.expect("an entry").file_name();
            let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap_or_default();
            assert!(
                read(fresh.path()) == read(&root.join(OUT)),
                "{} is not current: run `cargo xtask proto`",
                name.display()
            );
        }
    }
}
