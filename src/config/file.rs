//! Opens a configuration file safely: a regular file, of the user or of root, that nobody else may write.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use super::CONFIG_LEN_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::system::{self, OpenOptionsExt};

/// Mode bit: everybody may write.
const OTHERS_MAY_WRITE: u32 = 0o002;
/// Mode bits: others than the owner may write.
const NOT_ALONE: u32 = 0o022;

/// What lies in the folder of a project that others work on, too.
const PROJECT_MARKS: [&str; 4] = [".git", ".hg", ".jj", ".svn"];

/// What a configuration file says, and whether it may say everything.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) text: String,
    /// Whether it may say what is run and where a token goes, or why not.
    pub(super) trust: Result<(), &'static str>,
}

/// The file's text; None when there is no such file.
///
/// A link is followed, since people keep their configuration elsewhere and link to it; a link to nothing is an
/// error, because going on with defaults could put memories into another store than the one they are in.
pub(super) fn read(path: &Path, user_home: Option<&Path>) -> Result<Option<Content>> {
    // Looked at before it is opened, because opening some devices already does something.
    let before = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => return dangling_link(path).map_or(Ok(None), Err),
        Err(error) => return Err(Error::io("reading the configuration", path, error)),
    };
    check_kind(path, &before)?;
    // A named pipe that took the file's place in between must not stop us here for ever.
    let mut file = match OpenOptions::new().read(true).custom_flags(system::NO_WAIT).open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(Error::io("reading the configuration", path, error)),
    };
    let opened = file.metadata().map_err(|error| Error::io("reading the configuration", path, error))?;
    check_kind(path, &opened)?;
    let user = system::user();
    check_access(path, system::owner(&opened), system::mode(&opened), user)?;
    let text = read_text(path, &mut file)?;
    Ok(Some(Content { text, trust: trust(path, &opened, user, user_home) }))
}

/// Whether a file is the user's own, in a folder of hers, and nobody else may write either of them; and not one that came
/// with a project, which she may have and not have read.
fn trust(path: &Path, file: &Metadata, user: u32, user_home: Option<&Path>) -> Result<(), &'static str> {
    let Some(folder) = path.parent() else { return Err("it is in no folder") };
    let in_folder = fs::metadata(folder).map_err(|_| "its folder cannot be looked at")?;
    if system::owner(file) != user || system::owner(&in_folder) != user {
        return Err("this one, or its folder, belongs to another user");
    }
    if (system::mode(file) | system::mode(&in_folder)) & NOT_ALONE != 0 {
        return Err("others may write this one or its folder (`chmod go-w` on both)");
    }
    if is_of_project(folder, user_home) {
        return Err("this one is in the folder of a project");
    }
    Ok(())
}

/// Whether a folder belongs to a project: it is a `.memento` that is not the user's, or it lies in a working copy.
fn is_of_project(folder: &Path, user_home: Option<&Path>) -> bool {
    const NAME: &str = ".memento";
    if user_home.is_some_and(|home| folder == home.join(NAME)) {
        return false;
    }
    // A working copy may be reached through a link.
    let Ok(real) = folder.canonicalize() else { return true };
    let home = user_home.and_then(|home| home.canonicalize().ok());
    if home.as_ref().is_some_and(|home| real == home.join(NAME)) {
        return false;
    }
    // Who keeps her whole home folder under version control wrote what is in it.
    let within = real.ancestors().take_while(|folder| Some(*folder) != home.as_deref());
    real.file_name().is_some_and(|name| name == NAME)
        || within
            .into_iter()
            .any(|folder| PROJECT_MARKS.iter().any(|mark| folder.join(mark).symlink_metadata().is_ok()))
}

/// A file that is too large to be a configuration.
pub(super) fn too_large(path: &Path, len: u64) -> Error {
    Error::new(ErrorKind::Config, format!("the file has {len} bytes, the most is {CONFIG_LEN_MAX}"))
        .at(path)
        .hint("this does not look like a configuration, check which file it is")
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn dangling_link(path: &Path) -> Option<Error> {
    fs::symlink_metadata(path).ok().filter(Metadata::is_symlink).map(|_| {
        Error::new(ErrorKind::Config, "this link points to no file")
            .at(path)
            .hint("repair the link or remove it")
    })
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<()> {
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::new(ErrorKind::Config, format!("this is {kind}, expected a YAML file"))
            .at(path)
            .hint("move it away, or put a configuration file in its place"));
    }
    if metadata.len() > CONFIG_LEN_MAX {
        return Err(too_large(path, metadata.len()));
    }
    Ok(())
}

/// Whoever may write the configuration decides where memories go, so only the user and root may.
fn check_access(path: &Path, owner: u32, mode: u32, user: u32) -> Result<()> {
    if owner != user && owner != 0 {
        return Err(Error::new(
            ErrorKind::Permission,
            format!("the file belongs to user {owner}, expected user {user} or root"),
        )
        .at(path)
        .hint("look at what it says, then take it over with `chown`"));
    }
    if mode & OTHERS_MAY_WRITE != 0 {
        return Err(Error::new(
            ErrorKind::Permission,
            format!("everybody may write this file (mode {:04o})", mode & 0o7777),
        )
        .at(path)
        .hint("look at what it says, then run `chmod o-w` on it"));
    }
    Ok(())
}

fn read_text(path: &Path, file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    // The limit holds for what is read, not for what the length said before.
    let len = file
        .take(CONFIG_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("reading the configuration", path, error))?;
    if len as u64 > CONFIG_LEN_MAX {
        return Err(too_large(path, len as u64));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        Error::new(ErrorKind::Config, format!("line {line}: the file is not UTF-8 text"))
            .at(path)
            .at_offset(good as u64)
            .hint("save it as UTF-8")
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn read(path: &Path) -> Result<Option<String>> {
        Ok(super::read(path, None)?.map(|read| read.text))
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn a_missing_file_is_fine_and_a_link_is_followed() {
        let dir = folder();
        let (file, link) = (dir.path().join("real.yaml"), dir.path().join("config.yaml"));
        assert_eq!(read(&link).expect("missing"), None);
        assert_eq!(read(&link.join("below-a-file")).expect("missing"), None);
        fs::write(&file, "debug: true\n").expect("write");
        symlink(&file, &link).expect("link");
        assert_eq!(read(&link).expect("a link").as_deref(), Some("debug: true\n"));
        assert_eq!(read(&file.join("config.yaml")).expect("the home is a file"), None);
    }

    #[test]
    fn a_link_to_nothing_and_a_loop_are_errors() {
        let dir = folder();
        let path = dir.path().join("config.yaml");
        symlink(dir.path().join("nowhere"), &path).expect("link");
        assert_eq!(read(&path).expect_err("dangling").kind(), ErrorKind::Config);
        fs::remove_file(&path).expect("remove");
        symlink(&path, &path).expect("link");
        assert_eq!(read(&path).expect_err("a loop").path(), Some(path.as_path()));
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let dir = folder();
        assert_eq!(read(dir.path()).expect_err("a folder").kind(), ErrorKind::Config);
        assert_eq!(read(Path::new("/dev/zero")).expect_err("a device").kind(), ErrorKind::Config);
        let pipe = dir.path().join("config.yaml");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a pipe");
        assert_eq!(read(&pipe).expect_err("a pipe").kind(), ErrorKind::Config);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let dir = folder();
        let path = dir.path().join("config.yaml");
        fs::write(&path, "debug: true\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        let error = read(&path).expect_err("world-writable");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Permission, Some(path.as_path())));
        assert!(error.message().contains("0666"));
        assert!(error.hint_text().is_some_and(|hint| hint.contains("chmod o-w")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("chmod");
        assert!(read(&path).is_ok());
    }

    #[test]
    fn only_the_user_and_root_may_own_the_file() {
        let path = Path::new("/x/config.yaml");
        assert!(check_access(path, 1000, 0o100_600, 1000).is_ok());
        assert!(check_access(path, 0, 0o100_644, 1000).is_ok());
        let error = check_access(path, 1001, 0o100_600, 1000).expect_err("another user");
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.message().contains("1001"));
        assert!(check_access(path, 1001, 0o100_600, 0).is_err(), "root does not trust a user's file either");
    }

    /// Whether the configuration in this folder below ann's home may say what is run.
    fn trusted(home: &Path, folder: &str) -> bool {
        let path = home.join(folder).join("config.yaml");
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(&path, "debug: true\n").expect("write");
        for private in [&path, &home.join(folder)] {
            let mode = if private.is_dir() { 0o700 } else { 0o600 };
            fs::set_permissions(private, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        super::read(&path, Some(home)).expect("readable").expect("there").trust.is_ok()
    }

    #[test]
    fn only_a_file_of_ones_own_outside_of_projects_is_trusted() {
        let dir = folder();
        let home = dir.path().canonicalize().expect("a path");
        assert!(trusted(&home, ".memento"), "the default home");
        assert!(trusted(&home, "agents/one"), "a home of her own");
        assert!(!trusted(&home, "src/app/.memento"), "the folder that projects have");
        fs::create_dir_all(home.join("src/lib/.git")).expect("a working copy");
        assert!(!trusted(&home, "src/lib/memory"), "in a working copy");
        symlink(home.join("src/lib/memory"), home.join("link")).expect("link");
        assert!(!trusted(&home, "link"), "a link into a working copy");
        fs::create_dir(home.join(".git")).expect("dot files under version control");
        assert!(trusted(&home, ".memento"));
        assert!(trusted(&home, "agents/one"));
    }

    #[test]
    fn what_others_may_write_is_not_trusted() {
        let dir = folder();
        let (home, path) = (dir.path(), dir.path().join(".memento/config.yaml"));
        for (name, mode) in [(path.as_path(), 0o664), (&home.join(".memento"), 0o775)] {
            assert!(trusted(home, ".memento"));
            fs::set_permissions(name, fs::Permissions::from_mode(mode)).expect("chmod");
            let read = super::read(&path, Some(home)).expect("readable").expect("there");
            assert!(read.trust.expect_err("others write").contains("others may write"), "{}", name.display());
        }
    }

    #[test]
    fn too_large_and_not_utf_8_are_refused() {
        let dir = folder();
        let path = dir.path().join("config.yaml");
        fs::write(&path, vec![b'#'; CONFIG_LEN_MAX as usize + 1]).expect("write");
        assert!(read(&path).expect_err("too large").message().contains("1048577 bytes"));
        fs::write(&path, vec![b'#'; CONFIG_LEN_MAX as usize]).expect("write");
        assert!(read(&path).is_ok());
        fs::write(&path, b"a: 1\nb: \xff\n").expect("write");
        let error = read(&path).expect_err("not UTF-8");
        assert!(error.message().starts_with("line 2:"), "{error}");
        assert_eq!(error.offset(), Some(8));
    }
}
