//! Unix: a socket in the store's folder.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::net::SendFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::PeerIdentity;

/// Name of the socket in the store's folder.
pub(crate) const SOCKET_NAME: &str = "owner.sock";
/// Only the user of the store may ask.
const SOCKET_MODE: u32 = 0o600;
/// A socket's address has room for 108 bytes on Linux and 104 elsewhere; a longer path needs another way.
const ADDRESS_LEN_MAX: usize = 100;

/// One end of a connection.
pub(crate) type Stream = UnixStream;
/// Where connections come in.
pub(crate) type Listener = UnixListener;
/// Dropping it wakes who waits for a connection.
pub(crate) type Waker = UnixStream;
/// The end of a waker that wakes.
pub(crate) type Wake = UnixStream;

/// Listens in this folder. A socket that a former owner left there is removed: whoever calls this holds the lock.
pub(crate) fn listen(folder: &Path) -> io::Result<Listener> {
    let path = folder.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = at_address(folder, |path| UnixListener::bind(path))?;
    // The folder lets nobody else in, so nobody was quicker.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    // Who was asked to come in may be gone again.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What wakes [`await_client`].
pub(crate) fn waker() -> io::Result<(Waker, Wake)> {
    UnixStream::pair()
}

/// Waits until somebody wants to connect, the waker is dropped or the time is over. Says whether somebody came.
pub(crate) fn await_client(listener: &Listener, wake: &Wake, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut watched =
        [PollFd::new(listener, PollFlags::IN), PollFd::new(wake, PollFlags::IN | PollFlags::HUP)];
    match poll(&mut watched, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!watched[0].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}

/// The connection of whoever came.
pub(crate) fn accept(listener: &Listener) -> io::Result<Stream> {
    Ok(listener.accept()?.0)
}

/// Makes reading and writing wait.
pub(crate) fn make_waiting(stream: &Stream) -> io::Result<()> {
    stream.set_nonblocking(false)
}

/// Sends these few bytes at once. They are so few that they go whole, or not at all where the other end takes nothing just
/// now.
pub(crate) fn send_now(stream: &Stream, bytes: &[u8]) -> io::Result<()> {
    match rustix::net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// Both ends of a connection.
#[cfg(test)]
pub(crate) fn pair() -> (Stream, Stream) {
    UnixStream::pair().expect("a pair")
}

/// Connects to the owner that listens in this folder. An owner that was stopped does not keep anybody longer than this.
pub(crate) fn reach(folder: &Path, wait: Duration) -> io::Result<Stream> {
    at_address(folder, |path| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(wait))?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(UnixStream::from(socket))
    })
}

/// Who is at the other end; `None` where the system does not tell.
pub(crate) fn peer_of(stream: &Stream) -> io::Result<Option<PeerIdentity>> {
    #[cfg(target_os = "linux")]
    {
        let credentials = rustix::net::sockopt::socket_peercred(stream)?;
        let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok();
        Ok(Some(PeerIdentity { uid: credentials.uid.as_raw(), pid }))
    }
    // Elsewhere the mode of the folder and of the socket decides alone.
    #[cfg(not(target_os = "linux"))]
    {
        let _ = stream;
        Ok(None)
    }
}

/// The user that this process acts for.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Calls with a path of the socket that fits into an address: for a long one, by way of the folder's descriptor.
fn at_address<T>(folder: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = folder.join(SOCKET_NAME);
    if path.as_os_str().len() <= ADDRESS_LEN_MAX {
        return call(&path);
    }
    if !cfg!(target_os = "linux") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path of the store is too long for a socket",
        ));
    }
    let flags = (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let held = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
    call(&Path::new("/proc/self/fd").join(held.as_raw_fd().to_string()).join(SOCKET_NAME))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_is_private_and_replaces_a_stale_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        drop(listen(folder.path()).expect("the first owner"));
        assert!(reach(folder.path(), Duration::from_secs(1)).is_err(), "nobody listens any more");
        let listener = listen(folder.path()).expect("the second owner");
        let mode = std::fs::metadata(folder.path().join(SOCKET_NAME)).expect("there").mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let stream = reach(folder.path(), Duration::from_secs(1)).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let peer = peer_of(&accepted).expect("credentials");
        if let Some(peer) = peer {
            assert_eq!(peer, PeerIdentity { uid: own_uid(), pid: Some(std::process::id()) });
        }
        drop(stream);
    }

    #[test]
    fn a_long_path_is_reached_as_well() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("long".repeat(30)).join("path".repeat(30));
        std::fs::create_dir_all(&folder).expect("folders");
        let listener = listen(&folder).expect("listens");
        let mut stream = reach(&folder, Duration::from_secs(1)).expect("connected");
        stream.write_all(b"x").expect("written");
        let (mut accepted, _) = listener.accept().expect("accepted");
        let mut byte = [0];
        accepted.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
    }
}
