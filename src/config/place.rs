//! Where a path in a configuration starts: `~` and relative paths made absolute.

use std::path::{Component, Path, PathBuf};

/// The folders that a path can start from.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where a relative path starts. None: the process has no current folder any more.
    pub(crate) folder: Option<PathBuf>,
    /// What `~` is.
    pub(crate) user_home: Option<PathBuf>,
}

impl Place {
    /// For paths that stand in a file: relative to the file, so that they mean the same from every folder.
    pub(super) fn of_file(file: &Path, user_home: Option<&Path>) -> Self {
        Self { folder: file.parent().map(Path::to_owned), user_home: user_home.map(Path::to_owned) }
    }

    /// The absolute path, without `.` components; links and `..` are left to the operating system. The error says
    /// what is wrong, to follow the name of what holds the path.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, String> {
        if path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control) {
            return Err("holds a path with a control character".to_owned());
        }
        let mut components = path.components();
        let full = match components.next() {
            Some(Component::Normal(first)) if first == "~" => self
                .user_home
                .as_ref()
                .ok_or_else(|| "starts with `~`, but HOME is not set".to_owned())?
                .join(components.as_path()),
            Some(Component::Normal(first)) if first.as_encoded_bytes().starts_with(b"~") => {
                return Err("starts with `~` and a name, only `~/` is understood".to_owned());
            }
            _ => path.to_owned(),
        };
        let absolute = match &self.folder {
            _ if full.is_absolute() => full,
            Some(folder) if folder.is_absolute() => folder.join(full),
            _ => return Err("is a relative path, but the current folder is not known".to_owned()),
        };
        Ok(absolute.components().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { folder: Some("/work/here".into()), user_home: Some("/home/ann".into()) }
    }

    #[test]
    fn paths_become_absolute() {
        for (given, expected) in [
            ("/a/./b//c/", "/a/b/c"),
            ("memory.db", "/work/here/memory.db"),
            ("./x/memory.db", "/work/here/x/memory.db"),
            ("../memory.db", "/work/here/../memory.db"),
            ("~", "/home/ann"),
            ("~/.memento/memory.db", "/home/ann/.memento/memory.db"),
            ("a/~/b", "/work/here/a/~/b"),
        ] {
            assert_eq!(place().resolve(Path::new(given)), Ok(PathBuf::from(expected)), "{given}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_says_why() {
        let nowhere = Place { folder: None, user_home: None };
        assert!(nowhere.resolve(Path::new("~/x")).expect_err("no home").contains("HOME"));
        assert!(nowhere.resolve(Path::new("x")).expect_err("no folder").contains("relative"));
        assert!(place().resolve(Path::new("~bob/x")).expect_err("a name").contains("only `~/`"));
        assert!(place().resolve(Path::new("/a\n/b")).expect_err("a newline").contains("control"));
    }
}
