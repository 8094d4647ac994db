//! The scenarios as files.

use std::collections::BTreeSet;
use std::path::Path;

use moult_conformance::scenario::{builtin, parse};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_file_is_run_and_is_named_after_its_scenario() {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(here().join("scenarios")).unwrap() {
        let path = entry.unwrap().path();
        let scenario = parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(scenario.name.as_str()));
        names.insert(scenario.name);
    }
    let run: BTreeSet<String> = builtin().into_iter().map(|scenario| scenario.name).collect();
    assert_eq!(names, run);
}

#[test]
fn the_table_names_every_scenario_that_was_published_first() {
    let readme = std::fs::read_to_string(here().join("README.md")).unwrap();
    for scenario in builtin().iter().filter(|scenario| scenario.source.is_some()) {
        assert!(readme.contains(&format!("`{}`", scenario.name)), "{} is not in the table", scenario.name);
    }
}

#[test]
fn every_size_of_committee_is_covered() {
    let sizes: BTreeSet<usize> = builtin().iter().flat_map(|s| s.stakes.iter().map(Vec::len)).collect();
    assert!([1, 3, 4, 5, 7, 10].iter().all(|size| sizes.contains(size)), "{sizes:?}");
}
