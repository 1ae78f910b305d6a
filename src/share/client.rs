//! A client's side: connections to the owner, and calls over them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::call::{Call, CallHead, ProgressMessage};
use super::channel::{Broken, ErrorMessage, Message, Receiver, Sender, body_of, channel};
use super::hello::{Hello, Welcome, skew};
use super::lock;
use super::socket::{own_uid, peer_of, reach};
use crate::embed::ModelIdentity;
use crate::error::{Durability, Error, ErrorKind, Result};
use crate::format::message::{MessageKind, Way, put, whole};
use crate::store::{Embeds, Holder, Progress, this_program};

/// Most connections of one handle at once; further calls wait for one.
const CONNECTIONS_MAX: usize = 8;
/// An owner from which nothing comes for so long is looked at, ...
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// ... and one that is not stopped may be slow for so long: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections to one owner.
pub(crate) struct Pool {
    folder: PathBuf,
    hello: Hello,
    owner: Welcome,
    idle: Mutex<Idle>,
    returned: Condvar,
}

struct Idle {
    connections: Vec<Connection>,
    /// Connections in all.
    count: usize,
}

struct Connection {
    receiver: Receiver,
    sender: Sender,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The owner is gone; the call may have been done.
    OwnerGone,
    /// The call ended so.
    Error(Error),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What a client has beside its question.
pub(crate) struct Asking<'a> {
    pub(crate) embeds: &'a dyn Embeds,
    pub(crate) progress: &'a mut dyn FnMut(u8, Progress),
    pub(crate) past: Option<u64>,
    pub(crate) resent_after: Option<u64>,
}

impl Pool {
    /// Connects to the owner that listens in this folder; `None` when nobody does.
    pub(crate) fn connect(folder: &Path, is_read_only: bool) -> Result<Option<Self>> {
        let hello = Hello { pid: std::process::id(), program: this_program(), is_read_only };
        let Some((connection, owner)) = greet(folder, &hello)? else { return Ok(None) };
        Ok(Some(Self {
            folder: folder.to_owned(),
            hello,
            owner,
            idle: Mutex::new(Idle { connections: vec![connection], count: 1 }),
            returned: Condvar::new(),
        }))
    }

    /// Who owns the store, as it said itself.
    pub(crate) fn owner(&self) -> &Welcome {
        &self.owner
    }

    /// Asks the owner and waits for its answer.
    pub(crate) fn ask<C: Call>(&self, call: &C, asking: &mut Asking<'_>) -> Result<C::Answer, Unanswered> {
        let head = CallHead { kind: C::KIND, past: asking.past, resent_after: asking.resent_after };
        let invalid =
            |damage| Error::new(ErrorKind::Invalid, format!("this cannot be sent to the owner: {damage}"));
        let mut body = body_of(&head).map_err(invalid)?;
        put(call, &mut body).map_err(invalid)?;
        if body.len() > Way::ToOwner.body_max() {
            let what = format!("{} bytes in one call, the most is {}", body.len(), Way::ToOwner.body_max());
            return Err(Error::new(ErrorKind::TooLarge, what).hint("give them in several groups").into());
        }
        let mut connection = self.lend()?;
        let asked = connection.ask(&body, asking);
        match asked {
            Ok(answer) => {
                self.give_back(connection);
                let message = answer?;
                Ok(whole(&message.body).map_err(|damage| {
                    Error::new(ErrorKind::Io, format!("the owner's answer cannot be read: {damage}"))
                        .durable(if C::WRITES { Durability::Unknown } else { Durability::NotWritten })
                })?)
            }
            Err(broken) => {
                self.lose();
                match broken {
                    Broken::Gone => Err(Unanswered::OwnerGone),
                    Broken::Silent => Err(self.unresponsive(C::WRITES).into()),
                    Broken::Protocol(theirs) => {
                        Err(skew("this program", &format!("protocol {theirs} of the owner")).into())
                    }
                    broken => {
                        Err(Error::new(ErrorKind::Io, format!("the owner cannot be understood: {broken}"))
                            .durable(if C::WRITES { Durability::Unknown } else { Durability::NotWritten })
                            .into())
                    }
                }
            }
        }
    }

    /// A connection that nobody else uses.
    fn lend(&self) -> Result<Connection, Unanswered> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(connection) = idle.connections.pop() {
                return Ok(connection);
            }
            if idle.count < CONNECTIONS_MAX {
                idle.count += 1;
                drop(idle);
                return match greet(&self.folder, &self.hello) {
                    // Another one has taken over: all that is known of the former owner is void.
                    Ok(Some((_, owner)))
                        if (owner.pid, owner.since_ms) != (self.owner.pid, self.owner.since_ms) =>
                    {
                        self.lose();
                        Err(Unanswered::OwnerGone)
                    }
                    Ok(Some((connection, _))) => Ok(connection),
                    Ok(None) => {
                        self.lose();
                        Err(Unanswered::OwnerGone)
                    }
                    Err(error) => {
                        self.lose();
                        Err(error.into())
                    }
                };
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, connection: Connection) {
        lock(&self.idle).connections.push(connection);
        self.returned.notify_one();
    }

    fn lose(&self) {
        lock(&self.idle).count -= 1;
        self.returned.notify_one();
    }

    fn unresponsive(&self, writes: bool) -> Error {
        let holder = Holder {
            pid: Some(self.owner.pid),
            program: Some(self.owner.program.clone()),
            since_ms: Some(self.owner.since_ms),
        };
        let durability = if writes { Durability::Unknown } else { Durability::NotWritten };
        unresponsive(&holder).durable(durability)
    }
}

impl Connection {
    /// Sends a call and does what the owner asks for until its answer is there.
    fn ask(&mut self, body: &[u8], asking: &mut Asking<'_>) -> Result<Result<Message>, Broken> {
        self.sender.send(MessageKind::Call, body)?;
        let mut model: Option<ModelIdentity> = None;
        loop {
            let message = self.receive()?;
            match message.kind {
                MessageKind::Answer => return Ok(Ok(message)),
                MessageKind::Error => {
                    let error: ErrorMessage = message.value(MessageKind::Error)?;
                    return Ok(Err(error.into()));
                }
                MessageKind::Working => {}
                MessageKind::Progress => {
                    let ProgressMessage(stage, progress) = message.value(MessageKind::Progress)?;
                    (asking.progress)(stage, progress);
                }
                MessageKind::AskModel => {
                    model = message.value(MessageKind::AskModel)?;
                    let found = asking.embeds.embedder_of(model.as_ref());
                    let identity = found.map(|found| found.map(|embedder| embedder.identity().clone()));
                    if let Ok(Some(identity)) = &identity {
                        model = Some(identity.clone());
                    }
                    self.sender.send_value(
                        MessageKind::Model,
                        &identity.map_err(|error| ErrorMessage::from(&error)),
                    )?;
                }
                MessageKind::Embed => {
                    let (is_query, text): (bool, String) = message.value(MessageKind::Embed)?;
                    let vectors = embed(asking.embeds, model.as_ref(), is_query, &text);
                    self.sender.send_value(
                        MessageKind::Vectors,
                        &vectors.map_err(|error| ErrorMessage::from(&error)),
                    )?;
                }
                kind => return Err(Broken::Garbage(format!("a message {kind:?} where an answer belongs"))),
            }
        }
    }

    /// The next message of an owner that may be slow, but is not stopped.
    fn receive(&mut self) -> Result<Message, Broken> {
        let started = Instant::now();
        loop {
            match self.receiver.receive(Some(SILENCE_MAX), PATIENCE) {
                Err(Broken::Silent) if !self.receiver.has_more() && started.elapsed() < PATIENCE => {
                    let pid = peer_of(self.receiver.stream()).ok().flatten().and_then(|peer| peer.pid);
                    if pid.is_some_and(is_stopped) {
                        return Err(Broken::Silent);
                    }
                }
                received => return received,
            }
        }
    }
}

fn embed(
    embeds: &dyn Embeds,
    model: Option<&ModelIdentity>,
    is_query: bool,
    text: &str,
) -> Result<Vec<Vec<f32>>> {
    let embedder = embeds
        .embedder_of(model)?
        .ok_or_else(|| Error::new(ErrorKind::Model, "this process has no model"))?;
    if is_query { Ok(vec![embedder.embed_query(text)?]) } else { embedder.embed_document(text) }
}

/// Connects and tells who is there; `None` when nobody listens.
fn greet(folder: &Path, hello: &Hello) -> Result<Option<(Connection, Welcome)>> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Io, format!("the owner of the store cannot be reached: {error}")).at(folder)
    };
    let stream = match reach(folder, SILENCE_MAX) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset => Ok(None),
                // Nobody takes connections, and the queue is full.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(unresponsive(&holder_of(folder))),
                // The path is too long here, or the socket is somebody else's: the lock says who has the store.
                io::ErrorKind::InvalidInput => Ok(None),
                _ => Err(failed(error)),
            };
        }
    };
    if let Some(peer) = peer_of(&stream).map_err(failed)?
        && peer.uid != own_uid()
    {
        let what = format!("whoever listens in the store's folder acts for the user {}", peer.uid);
        return Err(Error::new(ErrorKind::Permission, what)
            .at(folder)
            .hint("check the owner and the mode of this folder"));
    }
    let (receiver, sender) = channel(stream, Way::FromOwner).map_err(failed)?;
    let mut connection = Connection { receiver, sender };
    let greeted = connection.sender.send_value(MessageKind::Hello, hello).and_then(|()| connection.receive());
    match greeted {
        Ok(message) if message.kind == MessageKind::Error => {
            let error: ErrorMessage = message.value(MessageKind::Error).map_err(|broken| {
                Error::new(ErrorKind::Io, format!("the owner cannot be understood: {broken}"))
            })?;
            Err(error.into())
        }
        Ok(message) => match message.value::<Welcome>(MessageKind::Welcome) {
            Ok(welcome) => Ok(Some((connection, welcome))),
            Err(broken) => {
                Err(Error::new(ErrorKind::Io, format!("the owner cannot be understood: {broken}")))
            }
        },
        Err(Broken::Gone) => Ok(None),
        Err(Broken::Silent) => Err(unresponsive(&holder_of(folder))),
        Err(Broken::Protocol(theirs)) => {
            Err(skew("this program", &format!("protocol {theirs} of the owner")))
        }
        Err(broken) => Err(Error::new(ErrorKind::Io, format!("the owner cannot be understood: {broken}"))),
    }
}

fn holder_of(folder: &Path) -> Holder {
    let home = folder.parent().unwrap_or(folder);
    Holder::of(&crate::fs::RealDisk, home).unwrap_or_default()
}

/// The error of an owner that does not answer. It keeps the store: what it has begun may be half done in its memory.
pub(crate) fn unresponsive(holder: &Holder) -> Error {
    let state = if holder.pid.is_some_and(is_stopped) { "was stopped" } else { "does not answer" };
    let error = Error::new(ErrorKind::OwnerUnresponsive, format!("the owner of the store {state}: {holder}"));
    match holder.pid {
        Some(pid) if state == "was stopped" => {
            error.hint(format!("`kill -CONT {pid}` lets it go on; `kill {pid}` ends it, and the next one takes over"))
        }
        Some(pid) => error.hint(format!(
            "wait, or end it with `kill {pid}`: the next one takes over, and nothing that was acknowledged is lost; `memento-kv check --files` reads without it"
        )),
        None => error.hint("`memento-kv check --files` reads without it"),
    }
}

/// Whether a process was stopped by a signal, where the system tells.
fn is_stopped(pid: u32) -> bool {
    // The state is the field behind the name, which stands in brackets and may hold anything.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['T', 't'])))
        .unwrap_or(false)
}
