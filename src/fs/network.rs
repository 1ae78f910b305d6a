//! File systems that are not of this machine: another machine does not see its locks for sure, and files change under
//! their maps.

use std::path::Path;

use super::system;

/// Numbers of network file systems (linux/magic.h), with their names.
const NETWORKS: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
];

/// The name of the network file system that a folder is on, as far as the system tells.
pub(crate) fn network_file_system(folder: &Path) -> Option<&'static str> {
    if system::is_remote_path(folder) {
        return Some("UNC");
    }
    system::file_system(folder).and_then(name_of)
}

fn name_of(number: u64) -> Option<&'static str> {
    // Some systems widen the number with its sign.
    let number = number as u32;
    NETWORKS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        assert_eq!(name_of(0x6969), Some("NFS"));
        assert_eq!(name_of(0xFFFF_FFFF_FF53_4D42), Some("CIFS"), "widened with its sign");
        for local in [0xEF53, 0x0102_1994, 0x9123_683E, 0x5846_5342] {
            assert_eq!(name_of(local), None);
        }
        assert_eq!(network_file_system(Path::new("/dev")), None);
    }
}
