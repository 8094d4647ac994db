//! `fuzz-seeds FOLDER`: writes the seeds of every target into `FOLDER/TARGET`, for
//! `cargo xtask fuzz`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use moult_fuzz::TARGETS;
use moult_types::codec::sha256;

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: fuzz-seeds FOLDER")?);
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for seed in (target.seeds)() {
            let path = folder.join(&sha256(&seed).to_string()[..16]);
            std::fs::write(&path, seed).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
