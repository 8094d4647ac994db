//! The modules that came with this program.

use moult_types::World;

/// One of them, with its line of `modules/modules.lock`.
#[derive(Clone, Copy)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) world: World,
    /// `sha256:<hex>`.
    pub(crate) hash: &'static str,
    /// What built it.
    pub(crate) compiler: &'static str,
    pub(crate) bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// A built-in module by name.
pub(crate) fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|module| module.name == name)
}

/// The name of a built-in module by its hash.
pub(crate) fn name_of(hash: moult_types::ModuleHash) -> Option<&'static str> {
    let hash = hash.to_string();
    BUILTIN.iter().find(|module| module.hash == hash).map(|module| module.name)
}

/// All names for a world, for messages.
pub(crate) fn names(world: World) -> String {
    let names: Vec<&str> = BUILTIN.iter().filter(|m| m.world == world).map(|m| m.name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use moult_types::ModuleHash;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_lock() {
        assert!(builtin("kv").is_some());
        for module in BUILTIN {
            assert_eq!(ModuleHash::of(module.bytes).to_string(), module.hash, "{}", module.name);
            assert_eq!(name_of(ModuleHash::of(module.bytes)), Some(module.name));
        }
    }
}
