//! The formats of the wire, the disk and the chain are what `formats.golden` says: a change of
//! one is a decision, which `cargo xtask formats --bless` writes down.

use std::fmt::Write as _;
use std::path::Path;

#[test]
fn formats_are_those_that_were_decided_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats.golden");
    let mut found = String::new();
    for (name, looked_at, hash) in moult_fuzz::formats() {
        assert!(looked_at > 0, "there is no encoding of {name} to look at");
        writeln!(found, "{name} {looked_at} {hash}").expect("writing to a String cannot fail");
    }
    if std::env::var_os("MOULT_BLESS").is_some() {
        std::fs::write(&path, found).expect("written");
        return;
    }
    let golden = std::fs::read_to_string(&path).expect("formats.golden");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (found, golden) = (lines(&found), lines(&golden));
    let changed: Vec<_> = found.iter().filter(|line| !golden.contains(line)).collect();
    let gone: Vec<_> = golden.iter().filter(|line| !found.contains(line)).collect();
    assert!(
        changed.is_empty() && gone.is_empty(),
        "formats changed: nodes, stores and clients of before do not understand what is written now. \
         now: {changed:#?}, before: {gone:#?}. If that is meant, run `cargo xtask formats --bless`, commit the file \
         by itself and say in CHANGELOG.md what it means for those who run nodes"
    );
}
