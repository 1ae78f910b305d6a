//! Messages over a socket: read within time limits, checked, put together.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bincode::{Decode, Encode};

use super::socket::{Stream, send_now};
use crate::error::{Error, ErrorKind};
use crate::format::Damage;
use crate::format::message::{
    FrameHeader, FrameProblem, MESSAGE_HEADER_LEN, MessageKind, Way, framed, put, whole,
};

/// Bytes that are read at once.
const READ_LEN: usize = 64 << 10;
/// Whoever does not take a message for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that came.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: MessageKind,
    pub(crate) body: Vec<u8>,
}

/// Why no message came.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The other end is gone.
    Gone,
    /// Nothing came in time.
    Silent,
    /// The other end speaks another protocol.
    Protocol(u16),
    /// What came is no message.
    Garbage(String),
    /// The system's own trouble.
    Io(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected => Self::Gone,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

impl From<FrameProblem> for Broken {
    fn from(problem: FrameProblem) -> Self {
        match problem {
            FrameProblem::Protocol(protocol) => Self::Protocol(protocol),
            FrameProblem::Damaged(damage) => Self::Garbage(damage.to_string()),
        }
    }
}

impl From<Damage> for Broken {
    fn from(damage: Damage) -> Self {
        Self::Garbage(damage.to_string())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => write!(f, "the other end is gone"),
            Self::Silent => write!(f, "nothing came in time"),
            Self::Protocol(protocol) => write!(f, "the other end speaks protocol {protocol}"),
            Self::Garbage(what) => write!(f, "what came is no message: {what}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// The end of a connection that reads.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: Stream,
    way: Way,
    /// What was read and is no message yet stands between `start` and `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    timeout: Option<Duration>,
}

/// The end of a connection that writes, for several threads.
#[derive(Debug)]
pub(crate) struct Sender(Mutex<Stream>);

/// Both ends of a connection.
pub(crate) fn channel(stream: Stream, way: Way) -> io::Result<(Receiver, Sender)> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.set_read_timeout(None)?;
    let sender = Sender(Mutex::new(stream.try_clone()?));
    Ok((Receiver { stream, way, buffer: vec![0; READ_LEN], start: 0, end: 0, timeout: None }, sender))
}

impl Receiver {
    /// The next message. Its first byte may take as long as `idle` says, and each further piece as long as `stall`.
    pub(crate) fn receive(&mut self, idle: Option<Duration>, stall: Duration) -> Result<Message, Broken> {
        let mut message: Option<Message> = None;
        loop {
            let begun = message.is_some();
            self.fill(MESSAGE_HEADER_LEN, if begun { Some(stall) } else { idle }, stall)?;
            let bytes =
                self.buffer[self.start..][..MESSAGE_HEADER_LEN].try_into().expect("so many are there");
            let header = FrameHeader::decode(bytes)?;
            let have = message.as_ref().map_or(0, |message| message.body.len());
            if have + header.len > self.way.body_max() {
                return Err(Broken::Garbage(format!("a message of more than {} bytes", self.way.body_max())));
            }
            self.fill(MESSAGE_HEADER_LEN + header.len, Some(stall), stall)?;
            let part = &self.buffer[self.start + MESSAGE_HEADER_LEN..][..header.len];
            header.check(part)?;
            let message = message.get_or_insert_with(|| Message { kind: header.kind, body: Vec::new() });
            if message.kind != header.kind {
                return Err(Broken::Garbage("a message of two kinds".to_owned()));
            }
            message.body.extend_from_slice(part);
            self.start += MESSAGE_HEADER_LEN + header.len;
            if !header.more {
                break;
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > READ_LEN {
                self.buffer = vec![0; READ_LEN];
            }
        }
        Ok(message.expect("a message has a frame"))
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether something came that is no whole message yet.
    pub(crate) fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// Reads until so many bytes are there.
    fn fill(&mut self, len: usize, first: Option<Duration>, stall: Duration) -> Result<(), Broken> {
        if self.end - self.start < len && self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if len > self.buffer.len() {
                self.buffer.resize(len, 0);
            }
        }
        while self.end - self.start < len {
            let is_first = self.end == self.start;
            self.limit(if is_first { first } else { Some(stall) })?;
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Broken::Gone),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn limit(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.timeout != timeout {
            self.stream.set_read_timeout(timeout)?;
            self.timeout = timeout;
        }
        Ok(())
    }
}

impl Sender {
    /// Sends a message whole.
    pub(crate) fn send(&self, kind: MessageKind, body: &[u8]) -> Result<(), Broken> {
        let bytes = framed(kind, body);
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&bytes).map_err(Broken::from)
    }

    /// Sends a message at once and whole, or not.
    pub(crate) fn send_now(&self, kind: MessageKind, body: &[u8]) -> Result<(), Broken> {
        let bytes = framed(kind, body);
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits for its answers has room for one.
        send_now(&stream, &bytes).map_err(Broken::from)
    }

    /// Sends a message without a body, unless the other end takes nothing just now or another thread sends.
    pub(crate) fn try_send(&self, kind: MessageKind) {
        if let Ok(stream) = self.0.try_lock() {
            // Whoever is gone is noticed elsewhere.
            let _ = send_now(&stream, &framed(kind, &[]));
        }
    }

    /// Sends a value as a message.
    pub(crate) fn send_value<T: Encode>(&self, kind: MessageKind, value: &T) -> Result<(), Broken> {
        self.send(kind, &body_of(value)?)
    }
}

/// A value as a body.
pub(crate) fn body_of<T: Encode>(value: &T) -> Result<Vec<u8>, Damage> {
    let mut body = Vec::new();
    put(value, &mut body)?;
    Ok(body)
}

impl Message {
    /// The value that it is, when it is of this kind.
    pub(crate) fn value<T: Decode<()>>(&self, kind: MessageKind) -> Result<T, Broken> {
        if self.kind != kind {
            return Err(Broken::Garbage(format!("a message {:?} where {kind:?} belongs", self.kind)));
        }
        Ok(whole(&self.body)?)
    }
}

/// An error as it stands in a message. What it was caused by stays where it happened.
#[derive(Debug, Encode, Decode)]
pub(crate) struct ErrorMessage {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    path: Option<std::path::PathBuf>,
    offset: Option<u64>,
    durability: crate::error::Durability,
}

impl From<&Error> for ErrorMessage {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.message().to_owned(),
            hint: error.hint_text().map(str::to_owned),
            // A path that is no text cannot be sent; the error can.
            path: error.path().filter(|path| path.to_str().is_some()).map(std::path::Path::to_owned),
            offset: error.offset(),
            durability: error.durability(),
        }
    }
}

impl From<ErrorMessage> for Error {
    fn from(sent: ErrorMessage) -> Self {
        let mut error = Self::new(sent.kind, sent.message).durable(sent.durability);
        if let Some(hint) = sent.hint {
            error = error.hint(hint);
        }
        if let Some(path) = sent.path {
            error = error.at(&path);
        }
        if let Some(offset) = sent.offset {
            error = error.at_offset(offset);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> ((Receiver, Sender), (Receiver, Sender)) {
        let (one, other) = crate::share::socket::pair();
        (
            channel(one, Way::ToOwner).expect("an owner's end"),
            channel(other, Way::FromOwner).expect("a client's end"),
        )
    }

    const STALL: Duration = Duration::from_millis(50);

    #[test]
    fn messages_of_any_length_arrive_in_order() {
        let ((mut owner, _owner_sends), (_client, client_sends)) = pair();
        let bodies: Vec<Vec<u8>> = [0, 5, 70_000, 3 << 20].map(|len| vec![7; len]).into();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bodies.iter().for_each(|body| client_sends.send(MessageKind::Call, body).expect("sent"))
            });
            for body in &bodies {
                let message = owner.receive(None, Duration::from_secs(10)).expect("received");
                assert_eq!((message.kind, &message.body), (MessageKind::Call, body));
            }
        });
        assert!(!owner.has_more());
    }

    #[test]
    fn silence_garbage_and_an_end_are_told_apart() {
        let ((mut owner, _keep), (_client, client_sends)) = pair();
        assert!(matches!(owner.receive(Some(STALL), STALL), Err(Broken::Silent)));
        client_sends.0.lock().expect("a lock").write_all(b"MKVP").expect("written");
        assert!(matches!(owner.receive(None, STALL), Err(Broken::Silent)), "half a header");
        client_sends.0.lock().expect("a lock").write_all(&[0; 16]).expect("written");
        assert!(matches!(owner.receive(None, STALL), Err(Broken::Protocol(0))));
        let ((mut owner, _keep), (client, client_sends)) = pair();
        client_sends.0.lock().expect("a lock").write_all(&[9; 64]).expect("written");
        assert!(matches!(owner.receive(None, STALL), Err(Broken::Garbage(_))));
        let ((mut owner, _keep), ends) = pair();
        drop((client, client_sends, ends));
        assert!(matches!(owner.receive(None, STALL), Err(Broken::Gone)));
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_is_all_there() {
        let ((mut owner, _keep), (_client, client_sends)) = pair();
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                // Never an end: whoever reads must give up by itself.
                let part = vec![0; crate::format::message::FRAME_BODY_MAX + 1];
                let frame = framed(MessageKind::Call, &part);
                let first = &frame[..MESSAGE_HEADER_LEN + crate::format::message::FRAME_BODY_MAX];
                while client_sends.0.lock().expect("a lock").write_all(first).is_ok() {}
            });
            let refused = owner.receive(None, Duration::from_secs(10));
            assert!(matches!(refused, Err(Broken::Garbage(_))), "{refused:?}");
            drop((owner, _keep));
            writer.join().expect("it ends");
        });
    }

    #[test]
    fn an_error_arrives_as_it_was() {
        let error = Error::new(ErrorKind::Corrupt, "checksum is 1, expected 2")
            .at(std::path::Path::new("/store/seg"))
            .at_offset(7)
            .hint("run `memento-kv check`");
        let body = body_of(&ErrorMessage::from(&error)).expect("a body");
        let sent: ErrorMessage = whole(&body).expect("an error");
        let back = Error::from(sent);
        assert_eq!(format!("{back:?}"), format!("{error:?}"));
        assert_eq!((back.hint_text(), back.durability()), (error.hint_text(), error.durability()));
    }
}
