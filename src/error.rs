//! The one error of the library.
//!
//! Callers branch on [`Error::kind`], people read `Display`, and `source()` keeps the cause. An error never holds
//! the text of a memory, a token or an absolute home path: paths are shown with the user's home folder as `~`.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// What every fallible function of this library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, for callers that branch on it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum ErrorKind {
    /// An argument is outside its documented range.
    Invalid,
    /// A text, a list or a file is larger than its limit.
    TooLarge,
    /// No memory has this id.
    NotFound,
    /// The id is taken by a memory with other content.
    Conflict,
    /// The disk, a quota or a file's limit is full; nothing was written.
    NoSpace,
    /// The store, or the medium it is on, may not be written.
    ReadOnly,
    /// The operating system refused access, or the folder is not safe to use.
    Permission,
    /// Another process holds the store, and does not share it or is not asked to.
    Busy,
    /// The process that owns the store does not answer.
    OwnerUnresponsive,
    /// The process that owns the store is of another version, and the two do not understand each other.
    VersionSkew,
    /// The handle was made before a fork, by the parent of this process.
    ForkedHandle,
    /// The operation did not end within its time limit.
    Timeout,
    /// The commit failed on its way to the disk: it may or may not be there after a reopen.
    CommitUnknown,
    /// A former commit failed; this handle refuses writes until the store is reopened.
    Poisoned,
    /// The operating system reported an error on a file.
    Io,
    /// Bytes on disk are not what was written.
    Corrupt,
    /// The file was written by a newer, unknown version.
    UnknownFormat,
    /// The file belongs to another store.
    ForeignStore,
    /// A store was here and is gone: a new one is not made in its place unless that is asked for.
    Gone,
    /// The embedding model cannot be loaded or cannot be used here.
    Model,
    /// The configuration has a bad value.
    Config,
    /// Refused by policy.
    Refused,
}

impl ErrorKind {
    /// The stable snake_case name that `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::NoSpace => "no_space",
            Self::ReadOnly => "read_only",
            Self::Permission => "permission",
            Self::Busy => "busy",
            Self::OwnerUnresponsive => "owner_unresponsive",
            Self::VersionSkew => "version_skew",
            Self::ForkedHandle => "forked_handle",
            Self::Timeout => "timeout",
            Self::CommitUnknown => "commit_unknown",
            Self::Poisoned => "poisoned",
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::UnknownFormat => "unknown_format",
            Self::ForeignStore => "foreign_store",
            Self::Gone => "gone",
            Self::Model => "model",
            Self::Config => "config",
            Self::Refused => "refused",
        }
    }
}

/// What is known about the operation's data after the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Durability {
    /// Nothing of the operation is in the store.
    NotWritten,
    /// The operation may or may not be in the store after a reopen. Repeating it with the same id is safe.
    Unknown,
    /// The operation is on stable storage; what failed came after it.
    Written,
}

/// An error with its kind, its place and what to do next.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    durability: Durability,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind; by default nothing was written.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let durability =
            if kind == ErrorKind::CommitUnknown { Durability::Unknown } else { Durability::NotWritten };
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            path: None,
            offset: None,
            durability,
            source: None,
        }))
    }

    /// An operating system's error on a file, its kind taken from the error's own kind.
    pub fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Os;
        let (kind, hint) = match source.kind() {
            Os::StorageFull | Os::QuotaExceeded => {
                (ErrorKind::NoSpace, Some("free some space on this disk, then try again"))
            }
            Os::FileTooLarge => {
                (ErrorKind::NoSpace, Some("raise the limit on the length of files, see `ulimit -f`"))
            }
            Os::ReadOnlyFilesystem => (
                ErrorKind::ReadOnly,
                Some(
                    "mount the medium for writing, or copy the home to another place and name that with --home",
                ),
            ),
            Os::PermissionDenied => {
                (ErrorKind::Permission, Some("check the owner and the mode of this path"))
            }
            _ => (ErrorKind::Io, None),
        };
        let mut error = Self::new(kind, format!("{operation}: {source}")).at(path).with_source(source);
        error.0.hint = hint.map(Cow::Borrowed);
        error
    }

    /// Damaged bytes at this offset of this file.
    pub fn corrupt(path: &Path, offset: u64, what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Corrupt, what.to_string())
            .at(path)
            .at_offset(offset)
            .hint("run `memento-kv check`")
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the file that the error is about.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    /// Adds the byte offset in the file.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Says what is known about the operation's data.
    #[must_use]
    pub fn durable(mut self, durability: Durability) -> Self {
        self.0.durability = durability;
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The file that the error is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in [`Error::path`].
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What is known about the operation's data.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.durability
    }

    /// Whether the same call may succeed later without a change to its arguments.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Busy
                | ErrorKind::OwnerUnresponsive
                | ErrorKind::Timeout
                | ErrorKind::NoSpace
                | ErrorKind::CommitUnknown
        )
    }
}

/// A path as it may be shown: the user's home folder as `~`.
pub(crate) fn shown(path: &Path) -> Cow<'_, str> {
    match std::env::home_dir()
        .filter(|home| home.parent().is_some())
        .and_then(|home| path.strip_prefix(home).ok())
    {
        Some(rest) => Cow::Owned(format!("~/{}", rest.display())),
        None => path.to_string_lossy(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            write!(f, "{}", shown(path))?;
            if let Some(offset) = self.offset() {
                write!(f, " at offset {offset}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.kind().name())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_run_out_of_space_is_one_kind_with_a_hint() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG] {
            let error = Error::io("write", Path::new("seg"), errno.into());
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            assert!(error.hint_text().is_some(), "{error}");
            assert!(error.is_retryable());
        }
    }
}
