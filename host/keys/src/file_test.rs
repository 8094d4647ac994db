use std::os::unix::fs::PermissionsExt;

use moult_crypto::Signer as _;

use super::*;

/// The least that is read: these tests are not of how long it takes.
const COST: Cost = Cost { memory_kib: 8 << 10, passes: 1, lanes: 1 };
const PASSPHRASE: &str = "correct horse battery staple";

fn by_file(dir: &Path, text: &str) -> Unlock {
    let path = dir.join("passphrase");
    let _ = std::fs::remove_file(&path);
    write_secret(&path, text).expect("written");
    Unlock { file: Some(path), env: None }
}

#[test]
fn a_plain_key_comes_back_and_is_guarded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.key");
    let keys = KeyPair::from_seed(&[9; 32]);
    write_key(&path, &keys).expect("written");
    assert_eq!(*read_key(&path).expect("read").seed(), *keys.seed());
    assert!(matches!(write_key(&path, &keys), Err(KeyError::Exists(_))));
    assert_eq!(KeyFile::read(&path).expect("read").authority(), AuthorityId::of(&keys.public_key()));
    let (later, other) = (folder.path().join("later.key"), AuthorityId([7; 32]));
    write_key_of(&later, &keys, other).expect("written");
    let read = KeyFile::read(&later).expect("read");
    assert_eq!((read.public_key(), read.authority(), read.kind()), (keys.public_key(), other, Kind::Plain));
    let text = std::fs::read_to_string(&later).expect("read");
    for bad in [format!("{text}more\n"), text.replace("authority ", "author "), text.replace("0707", "07")] {
        std::fs::write(&later, bad).expect("written");
        assert!(matches!(read_key(&later), Err(KeyError::NotAKey { .. })));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(read_key(&path), Err(KeyError::Open { mode: 0o644, .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    std::fs::write(&path, "something else").expect("written");
    assert!(matches!(read_key(&path), Err(KeyError::NotAKey { .. })));
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.key");
    let (keys, authority) = (KeyPair::from_seed(&[9; 32]), AuthorityId([7; 32]));
    let made = KeyFile::encrypted(&path, &keys, authority, PASSPHRASE, COST).expect("sealed");
    made.write().expect("written");
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(!text.contains(&hex::encode(*keys.seed())));
    let read = KeyFile::read(&path).expect("read");
    assert_eq!(
        (read.public_key(), read.authority(), read.kind()),
        (keys.public_key(), authority, Kind::Encrypted)
    );
    // With a line end after it, as editors write it, or without.
    for said in [PASSPHRASE.to_owned(), format!("{PASSPHRASE}\n")] {
        let NodeKey::Memory(opened) = read.unlock(&by_file(folder.path(), &said)).expect("opened") else {
            panic!("a key in memory");
        };
        assert_eq!(*opened.seed(), *keys.seed());
    }
    for said in ["", "correct horse battery stapl", " correct horse battery staple"] {
        let refused = read.unlock(&by_file(folder.path(), said));
        assert!(matches!(refused, Err(KeyError::WrongPassphrase(_))), "{said:?}");
    }
    assert!(matches!(read.unlock(&Unlock::default()), Err(KeyError::Locked { .. })));
    let unset = Unlock { file: None, env: Some("MOULT_TEST_IS_NOT_SET".into()) };
    assert!(matches!(read.unlock(&unset), Err(KeyError::NoVariable(_))));
    assert!(matches!(read_key(&path), Err(KeyError::NotPlain(_))));
    let short = KeyFile::encrypted(&path, &keys, authority, "seven77", COST);
    assert!(matches!(short, Err(KeyError::ShortPassphrase(7))));
}

/// Each character of the file says something, and nothing in it can be said otherwise.
#[test]
fn an_encrypted_key_that_was_changed_does_not_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.key");
    let keys = KeyPair::from_seed(&[9; 32]);
    let made = KeyFile::encrypted(&path, &keys, AuthorityId([7; 32]), PASSPHRASE, COST).expect("sealed");
    made.write().expect("written");
    let (unlock, text) = (by_file(folder.path(), PASSPHRASE), std::fs::read_to_string(&path).expect("read"));
    let opens = |text: &str| {
        std::fs::write(&path, text).expect("written");
        KeyFile::read(&path).and_then(|file| file.unlock(&unlock)).is_ok()
    };
    assert!(opens(&text));
    // A tenth of all characters, in the header, each field and the seal; those of the costs make
    // other files that are read, or none.
    for place in (0..text.len()).step_by(13) {
        let mut changed = text.clone().into_bytes();
        changed[place] = if changed[place] == b'1' { b'2' } else { b'1' };
        let changed = String::from_utf8(changed).expect("text");
        assert!(!opens(&changed), "character {place}: {changed}");
    }
    let (costs, lines) = (format!("argon2id {} 1 1", 8 << 10), text.lines().collect::<Vec<_>>());
    for (old, new) in [
        (costs.as_str(), "argon2id 8192 1 2"),
        (costs.as_str(), "argon2id 08192 1 1"),
        (costs.as_str(), "argon2id +8192 1 1"),
        (costs.as_str(), "argon2id 8 1 1"),
        (costs.as_str(), "argon2id 4194305 1 1"),
        (costs.as_str(), "argon2id 8192 1 1 1"),
        (lines[6], &lines[6].to_uppercase()),
        ("public ", "public  "),
        ("\nsalt", "\n\nsalt"),
        ("key 1\n", "key 1\r\n"),
    ] {
        let changed = text.replacen(old, new, 1);
        assert_ne!(changed, text);
        assert!(!opens(&changed), "{changed}");
    }
    for changed in [format!("{text}\n"), text.trim_end().to_owned(), text[..text.len() / 2].to_owned()] {
        assert!(!opens(&changed), "{changed}");
    }
}

#[test]
fn a_key_is_put_in_the_place_of_its_plain_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.key");
    let keys = KeyPair::from_seed(&[9; 32]);
    write_key(&path, &keys).expect("written");
    let authority = AuthorityId::of(&keys.public_key());
    let sealed = KeyFile::encrypted(&path, &keys, authority, PASSPHRASE, COST).expect("sealed");
    sealed.replace().expect("replaced");
    assert_eq!(KeyFile::read(&path).expect("read").kind(), Kind::Encrypted);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    let again = KeyFile::encrypted(&path, &keys, authority, PASSPHRASE, COST).expect("sealed");
    assert_ne!(*again.text(), *sealed.text(), "salt and nonce are new each time");
}

#[test]
fn a_file_that_names_a_token_is_read_strictly() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.key");
    let place =
        TokenPlace { module: "/no/such/module.so".into(), token: "a token".into(), key: "key 1".into() };
    let public = KeyPair::from_seed(&[9; 32]).public_key();
    let file = KeyFile {
        path: path.clone(),
        public,
        authority: AuthorityId([7; 32]),
        secret: Secret::Token(place.clone()),
    };
    file.write().expect("written");
    let read = KeyFile::read(&path).expect("read");
    assert_eq!(
        (read.public_key(), read.authority(), read.kind()),
        (public, AuthorityId([7; 32]), Kind::Token)
    );
    assert!(matches!(read.unlock(&Unlock::default()), Err(KeyError::Locked { what: "PIN", .. })));
    let unlock = by_file(folder.path(), "1234");
    let Err(KeyError::Token { module, problem, .. }) = read.unlock(&unlock) else { panic!("no module") };
    assert_eq!(module, place.module);
    assert!(problem.contains("cannot be loaded"), "{problem}");
    let text = std::fs::read_to_string(&path).expect("read");
    for bad in [format!("{text}more\n"), text.replace("token ", "tokens "), text.trim_end().to_owned()] {
        std::fs::write(&path, bad).expect("written");
        assert!(matches!(KeyFile::read(&path), Err(KeyError::NotAKey { .. })));
    }
}
