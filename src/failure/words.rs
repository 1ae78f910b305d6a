//! The words that a failure is described with. There are no others: nothing that a person wrote gets into a log line,
//! an alert or an issue through here.

/// How grave a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// A file that everything else can be read without, or that came back whole, could not be read, written or reached.
    Io,
    /// Bytes on disk are not what was written.
    Damaged,
    /// A file, or memories, are not there any more.
    Lost,
}

impl Class {
    /// The stable name, as it stands in `failures.log`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Damaged => "damaged",
            Self::Lost => "lost",
        }
    }
}

/// Makes an enum of words, each with its stable snake_case name.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $word,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$word,)*];

            /// The stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }

            /// The one of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.name() == name)
            }
        }
    };
}

words! {
    /// What failed.
    Kind {
        /// A segment of the log holds other bytes than were written.
        SegmentDamaged = "segment_damaged",
        /// The manifest does.
        ManifestDamaged = "manifest_damaged",
        /// The view does.
        ViewDamaged = "view_damaged",
        /// An index does.
        IndexDamaged = "index_damaged",
        /// `memory.db` does.
        SnapshotDamaged = "snapshot_damaged",
        /// A backup does.
        BackupDamaged = "backup_damaged",
        /// Several files of the store do, so that it does not open.
        StoreDamaged = "store_damaged",
        /// The whole store is gone.
        StoreGone = "store_gone",
        /// A segment of the log is gone.
        SegmentGone = "segment_gone",
        /// Acknowledged records are in no file any more.
        RecordsLost = "records_lost",
        /// A backup is gone.
        BackupGone = "backup_gone",
        /// There is no backup to restore from.
        BackupsGone = "backups_gone",
        /// A file cannot be read.
        ReadFailed = "read_failed",
        /// A file cannot be written.
        WriteFailed = "write_failed",
        /// The disk is full.
        NoSpace = "no_space",
        /// The medium may only be read.
        ReadOnly = "read_only",
        /// A file or a folder may not be used.
        Permission = "permission",
        /// The process that has the store does not answer.
        OwnerHangs = "owner_hangs",
        /// A backup could not be made or verified.
        BackupFailed = "backup_failed",
        /// `memory.db` could not be written.
        PublishFailed = "publish_failed",
        /// A check could not be done.
        CheckFailed = "check_failed",
    }
}

impl Kind {
    /// How grave it is.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::SegmentDamaged
            | Self::ManifestDamaged
            | Self::ViewDamaged
            | Self::IndexDamaged
            | Self::SnapshotDamaged
            | Self::BackupDamaged
            | Self::StoreDamaged => Class::Damaged,
            Self::StoreGone
            | Self::SegmentGone
            | Self::RecordsLost
            | Self::BackupGone
            | Self::BackupsGone => Class::Lost,
            Self::ReadFailed
            | Self::WriteFailed
            | Self::NoSpace
            | Self::ReadOnly
            | Self::Permission
            | Self::OwnerHangs
            | Self::BackupFailed
            | Self::PublishFailed
            | Self::CheckFailed => Class::Io,
        }
    }

    /// One sentence for a person.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::SegmentDamaged => "A segment of the log holds other bytes than were written.",
            Self::ManifestDamaged => "The manifest holds other bytes than were written.",
            Self::ViewDamaged => "The view holds other bytes than were written.",
            Self::IndexDamaged => "An index holds other bytes than were written.",
            Self::SnapshotDamaged => "memory.db holds other bytes than were written.",
            Self::BackupDamaged => "A backup holds other bytes than were written.",
            Self::StoreDamaged => "Several files of the store are damaged, and it does not open by itself.",
            Self::StoreGone => "The store is gone.",
            Self::SegmentGone => "A segment of the log is gone.",
            Self::RecordsLost => "Acknowledged records are in no file any more.",
            Self::BackupGone => "A backup is gone.",
            Self::BackupsGone => "There is no backup to restore from.",
            Self::ReadFailed => "A file cannot be read.",
            Self::WriteFailed => "A file cannot be written.",
            Self::NoSpace => "The disk is full.",
            Self::ReadOnly => "The medium may only be read.",
            Self::Permission => "A file or a folder may not be used.",
            Self::OwnerHangs => "The process that has the store does not answer.",
            Self::BackupFailed => "A backup could not be made or verified.",
            Self::PublishFailed => "memory.db could not be written.",
            Self::CheckFailed => "A check could not be done.",
        }
    }
}

words! {
    /// What was done about a failure.
    Deed {
        /// Files were healed from what else holds their content.
        Healed = "healed",
        /// Damaged files were put into quarantine.
        Quarantined = "quarantined",
        /// Files were made anew from the log.
        Rebuilt = "rebuilt",
        /// The store was restored from a backup.
        Restored = "restored",
        /// Records that are newer than the backup were brought in from the log.
        Replayed = "replayed",
        /// `memory.db` was written anew.
        Republished = "republished",
        /// What is sound is served, nothing was changed.
        Served = "served",
        /// Nothing.
        Nothing = "nothing",
    }
}

words! {
    /// What a file of a home is.
    FileKind {
        /// A segment of the log.
        Segment = "segment",
        /// The manifest.
        Manifest = "manifest",
        /// The view.
        View = "view",
        /// A file of an index.
        Index = "index",
        /// `memory.db`.
        Snapshot = "snapshot",
        /// A backup.
        Backup = "backup",
        /// The configuration.
        Config = "config",
        /// A log.
        Log = "log",
        /// Another file of the store.
        Store = "store",
        /// Any other file.
        Other = "other",
    }
}

impl FileKind {
    /// What the file of this name, relative to the home, is.
    #[must_use]
    pub fn of(file: &str) -> Self {
        match file {
            "store/MANIFEST" => Self::Manifest,
            "store/view.redb" => Self::View,
            "memory.db" => Self::Snapshot,
            "config.yaml" => Self::Config,
            "store" => Self::Store,
            _ => {
                let within = |folder: &str| file.strip_prefix(folder).is_some_and(|rest| !rest.is_empty());
                if within("store/seg/") {
                    Self::Segment
                } else if within("store/index/") {
                    Self::Index
                } else if within("store/") {
                    Self::Store
                } else if within("backups/") {
                    Self::Backup
                } else if within("logs/") {
                    Self::Log
                } else {
                    Self::Other
                }
            }
        }
    }
}

/// Files whose names are always the same.
const FIXED_NAMES: [&str; 19] = [
    "store",
    "store/MANIFEST",
    "store/view.redb",
    "store/LOCK",
    "store/RESERVE",
    "store/HISTORY",
    "store/times",
    "store/query.cache",
    "store/snap.state",
    "store/owner.pipe",
    "store/owner.sock",
    "memory.db",
    "config.yaml",
    "health.json",
    "logs/health.log",
    "logs/failures.log",
    "logs/automemory.log",
    "backups",
    "logs",
];

/// The name of a file as it may be told: itself where the program gave it, else what it is.
///
/// A name that the program gives holds nothing but fixed words and digits. Any other may hold what a person wrote.
#[must_use]
pub fn shown_file(file: &str) -> &str {
    let kind = FileKind::of(file);
    let name = file.rsplit('/').next().unwrap_or(file);
    let is_number =
        |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    let is_ours = match kind {
        FileKind::Segment => {
            let stem = name.strip_suffix(".mseg");
            file.matches('/').count() == 2 && stem.is_some_and(|stem| stem.split('-').all(is_number))
        }
        FileKind::Index => {
            file.matches('/').count() == 2 && name.strip_suffix(".mvec").is_some_and(is_number)
        }
        FileKind::Backup => {
            let stem = name.strip_prefix("memory_").and_then(|rest| rest.strip_suffix(".db"));
            file.matches('/').count() == 1 && stem.is_some_and(|stem| stem.split('_').all(is_number))
        }
        // What it is may be said again.
        _ => FIXED_NAMES.contains(&file) || FileKind::named(file).is_some(),
    };
    if is_ours { file } else { kind.name() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
            assert!(kind.sentence().ends_with('.'), "{kind:?}");
        }
        assert_eq!(Kind::named("remember_me"), None);
        assert_eq!(Deed::named("restored"), Some(Deed::Restored));
        assert_eq!(FileKind::named("segment"), Some(FileKind::Segment));
    }

    #[test]
    fn a_file_is_told_by_its_name_only_where_the_program_gave_it() {
        for (file, shown) in [
            ("store/seg/0000000007.mseg", "store/seg/0000000007.mseg"),
            (
                "store/seg/0000000007-00000000000000000041-2.mseg",
                "store/seg/0000000007-00000000000000000041-2.mseg",
            ),
            ("store/index/0000000003.mvec", "store/index/0000000003.mvec"),
            ("store/seg/7-x.mseg", "segment"),
            ("store/MANIFEST", "store/MANIFEST"),
            ("backups/memory_20261123_010203.db", "backups/memory_20261123_010203.db"),
            ("backups/my divorce.db", "backup"),
            ("backup", "backup"),
            ("backups/memory_x_y.db", "backup"),
            ("backups/a/memory_1_2.db", "backup"),
            ("store/seg/x.mseg", "segment"),
            ("store/seg/../../secret/1.mseg", "segment"),
            ("store/index/anything", "index"),
            ("store/quarantine/x", "store"),
            ("/home/ann/.memento/memory.db", "other"),
            ("a\nb", "other"),
            ("", "other"),
        ] {
            assert_eq!(shown_file(file), shown, "{file:?}");
        }
    }
}
