//! The model on small literal traces.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Loss};

struct Case {
    _folder: tempfile::TempDir,
    root: PathBuf,
    disk: Disk,
}

impl Case {
    /// A folder with these files, all synced.
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        for (name, bytes) in files {
            std::fs::write(root.join(name), bytes).expect("written");
        }
        let disk = Disk::read(&root);
        Self { _folder: folder, root, disk }
    }

    /// Takes a line up: `{name}` stands for the path of a file, `[text]` for a string, both in hex.
    fn take(&mut self, line: &str) -> Result<(), String> {
        let mut text = String::new();
        let mut rest = line;
        while let Some(at) = rest.find(['{', '[']) {
            let (before, inside) = rest.split_at(at);
            let (inside, after) = inside[1..].split_once(['}', ']']).expect("a pair");
            text += before;
            if rest[at..].starts_with('{') {
                text += &hex(self.root.join(inside).to_str().expect("a text").as_bytes());
            } else {
                write!(text, "\"{}\"", hex(inside.as_bytes())).expect("written");
            }
            rest = after;
        }
        self.disk.take(&(text + rest))
    }

    fn all(mut self, lines: &[&str]) -> Self {
        lines.iter().for_each(|line| self.take(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        self
    }

    /// Puts onto the disk what the calls would have put there, and loses power.
    fn lose(self, files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf, Loss) {
        for entry in std::fs::read_dir(&self.root).expect("a folder") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
        }
        for (name, bytes) in files {
            std::fs::write(self.root.join(name), bytes).expect("written");
        }
        (self._folder, self.root, self.disk.lose())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

fn held(root: &Path, name: &str) -> Vec<u8> {
    std::fs::read(root.join(name)).expect("a file")
}

const OPEN: &str = "7 openat(AT_FDCWD<{}>, \"\", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 9<{a}>";

#[test]
fn what_was_written_after_the_sync_is_lost() {
    let case = Case::new(&[]).all(&[
        OPEN,
        "7 write(9<{a}>, [one], 3) = 3",
        "7 fdatasync(9<{a}>)        = 0",
        "7 write(9<{a}>, [two], 3) = 3",
        "7 pwrite64(9<{a}>, [O], 1, 0) = 1",
    ]);
    let (_folder, root, loss) = case.lose(&[("a", b"Onetwo")]);
    assert_eq!(held(&root, "a"), b"one");
    assert_eq!((loss.bytes_of("a"), loss.syncs), (4, vec![PathBuf::from("a")]));
}

#[test]
fn a_sync_covers_what_completed_before_it_began() {
    let case = Case::new(&[]).all(&[
        OPEN,
        "7 write(9<{a}>, [one], 3) = 3",
        "8 fsync(9<{a}> <unfinished ...>",
        "7 write(9<{a}>, [two], 3) = 3",
        "8 <... fsync resumed>)        = 0",
    ]);
    let (_folder, root, loss) = case.lose(&[("a", b"onetwo")]);
    assert_eq!((held(&root, "a"), loss.bytes_of("")), (b"one".to_vec(), 3));
}

#[test]
fn a_sync_does_not_cover_a_write_that_was_under_way() {
    let case = Case::new(&[]).all(&[
        OPEN,
        "7 write(9<{a}>, [one] <unfinished ...>",
        "8 fsync(9<{a}> <unfinished ...>",
        "7 <... write resumed>, 3) = 3",
        "8 <... fsync resumed>) = 0",
    ]);
    let (_folder, root, loss) = case.lose(&[("a", b"one")]);
    assert_eq!((held(&root, "a"), loss.bytes_of("")), (Vec::new(), 3));
}

#[test]
fn a_sync_without_its_end_or_of_another_file_or_that_failed_syncs_nothing() {
    let case = Case::new(&[("b", b"b")]).all(&[
        OPEN,
        "7 write(9<{a}>, [one], 3) = 3",
        "7 fsync(10<{b}>) = 0",
        "7 fsync(9<{a}>) = -1 EIO (Input/output error)",
        "7 sync_file_range(9<{a}>, 0, 3, SYNC_FILE_RANGE_WRITE) = 0",
        "8 fsync(9<{a}> <unfinished ...>",
        "8 <... fsync resumed> )     = ?",
        "9 fsync(9<{a}> <unfinished ...>",
        "7 +++ killed by SIGKILL +++",
    ]);
    let (_folder, root, loss) = case.lose(&[("a", b"one"), ("b", b"b")]);
    assert_eq!((held(&root, "a"), held(&root, "b"), loss.bytes_of("")), (Vec::new(), b"b".to_vec(), 3));
}

#[test]
fn names_stay_and_a_renamed_file_keeps_what_was_synced() {
    let case = Case::new(&[("b", b"old"), ("c", b"c")]).all(&[
        OPEN,
        "7 write(9<{a}>, [new], 3) = 3",
        "7 fsync(9<{a}>) = 0",
        "7 renameat(AT_FDCWD<{}>, [a], AT_FDCWD<{}>, [b]) = 0",
        "7 pwrite64(9<{b}>, [lost], 4, 1) = 4",
        "7 unlinkat(11<{}>, [c], 0) = 0",
    ]);
    let (_folder, root, loss) = case.lose(&[("b", b"nlost")]);
    assert_eq!((held(&root, "b"), loss.bytes_of("")), (b"new".to_vec(), 4));
}

#[test]
fn a_renamed_folder_takes_its_files_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("a path");
    let case = Case { disk: Disk::read(&root), root: root.clone(), _folder: folder }.all(&[
        "7 openat(AT_FDCWD<{}>, [db.new/a], O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 9<{db.new/a}>",
        "7 write(9<{db.new/a}>, [one], 3) = 3",
        "7 fsync(9<{db.new/a}>) = 0",
        "7 openat(AT_FDCWD<{}>, [db.new], O_RDONLY|O_CLOEXEC) = 10<{db.new}>",
        "7 fsync(10<{db.new}>) = 0",
        "7 renameat(AT_FDCWD<{}>, [db.new], AT_FDCWD<{}>, [db]) = 0",
        "7 write(9<{db/a}>, [two], 3) = 3",
    ]);
    std::fs::create_dir(root.join("db")).expect("made");
    std::fs::write(root.join("db/a"), b"onetwo").expect("written");
    let loss = case.disk.lose();
    assert_eq!((held(&root, "db/a"), loss.bytes_of("db/a")), (b"one".to_vec(), 3));
}

#[test]
fn lengths_are_taken_back_too() {
    let case = Case::new(&[("a", b"held")]).all(&[
        "7 openat(AT_FDCWD<{}>, \"\", O_RDWR|O_CLOEXEC) = 9<{a}>",
        "7 ftruncate(9<{a}>, 6) = 0",
        "7 lseek(9<{a}>, 0, SEEK_END) = 6",
        "7 write(9<{a}>, [!], 1) = 1",
    ]);
    let (_folder, root, _) = case.lose(&[("a", b"held\0\0!")]);
    assert_eq!(held(&root, "a"), b"held");
}

#[test]
fn appended_bytes_go_to_the_end_whoever_wrote_before() {
    let case = Case::new(&[("a", b"held")]).all(&[
        "7 openat(AT_FDCWD<{}>, \"\", O_WRONLY|O_APPEND|O_CLOEXEC) = 8<{a}>",
        "7 openat(AT_FDCWD<{}>, \"\", O_RDWR|O_CLOEXEC) = 9<{a}>",
        "7 write(8<{a}>, [1], 1) = 1",
        "7 pwrite64(9<{a}>, [2], 1, 5) = 1",
        "7 lseek(8<{a}>, 0, SEEK_SET) = 0",
        "7 write(8<{a}>, [3], 1) = 1",
        "7 fsync(9<{a}>) = 0",
    ]);
    let (_folder, root, loss) = case.lose(&[("a", b"held123")]);
    assert_eq!((held(&root, "a"), loss.bytes_of("")), (b"held123".to_vec(), 0));
}

#[test]
fn a_write_that_the_node_died_in_may_be_on_the_disk() {
    let died: [&[&str]; 2] = [
        &["7 write(9<{a}>, [one], 3 <unfinished ...>", "7 +++ killed by SIGKILL +++"],
        &["7 write(9<{a}>, [one], 3) = ?"],
    ];
    for lines in died {
        for left in [b"".as_slice(), b"one"] {
            let (_folder, root, loss) = Case::new(&[]).all(&[OPEN]).all(lines).lose(&[("a", left)]);
            assert_eq!((held(&root, "a"), loss.bytes_of("")), (Vec::new(), 0));
        }
    }
}

#[test]
#[should_panic(expected = "holds something else than the model says")]
fn a_change_that_no_call_made_is_seen() {
    Case::new(&[]).all(&[OPEN, "7 write(9<{a}>, [one], 3) = 3"]).lose(&[("a", b"onE")]);
}

#[test]
fn what_the_model_does_not_know_is_refused() {
    let refused = [
        "7 pwritev2(9<{a}>, [x], 1, 0, RWF_DSYNC) = 1",
        "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 9<{a}>, 0) = 0x7f0000000000",
        "7 copy_file_range(9<{a}>, NULL, 10<{b}>, NULL, 4, 0) = 4",
        "7 dup(9<{a}>) = 12<{a}>",
        "7 fcntl(9<{a}>, F_DUPFD_CLOEXEC, 3) = 12<{a}>",
        "7 openat(AT_FDCWD<{}>, \"\", O_RDWR) = 12<{a}>",
        "7 openat(AT_FDCWD<{}>, \"\", O_RDWR|O_DSYNC|O_CLOEXEC) = 12<{a}>",
        "7 openat(AT_FDCWD<{}>, \"\", O_RDWR|O_CLOEXEC) = 12<{never-seen}>",
        "7 write(13<{a}>, [x], 1) = 1",
        "7 write(9<{a}>, [x]..., 1) = 1",
        "7 write(9<{a}>, [x], 1) 1",
        "7 rename([/elsewhere], {a}) = 0",
        "7 fallocate(9<{a}>, 0, 0, 4096) = 0",
        "7 io_uring_setup(8, 0) = 3",
        "7 sync() = 0",
        "7 <... write resumed>) = 1",
        "what is this",
    ];
    for line in refused {
        let mut case = Case::new(&[("b", b"b")]).all(&[OPEN]);
        assert!(case.take(line).is_err(), "{line}");
    }
    let mut case = Case::new(&[]).all(&[OPEN, "7 write(9<{a}>, [x], 1 <unfinished ...>"]);
    assert!(case.take("8 write(9<{a}>, [y], 1) = 1").is_err(), "two writes at a time");
}

#[test]
fn other_files_do_not_matter() {
    Case::new(&[]).all(&[
        "7 write(3</x>, [x], 1) = 1",
        "7 dup2(3</x>, 1</y>) = 1</x>",
        "7 write(9<{a}>(deleted), [x], 1) = 1",
        "7 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3</x>, 0) = 0x7f0000000000",
        "7 --- stopped by SIGSTOP ---",
    ]);
}
