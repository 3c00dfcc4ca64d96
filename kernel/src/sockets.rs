//! Listening sockets handed down by whoever started the process, so that a restart loses no connection: descriptors from
//! 3 on (`LISTEN_FDS`), named in order by `LISTEN_FDNAMES` with colons between, as systemd does it.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use listenfd::ListenFd;

use crate::StartError;

/// Sockets that nobody has taken yet. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct InheritedSockets(Arc<Mutex<HashMap<String, TcpListener>>>);

impl InheritedSockets {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of the process. Once: a second call finds none.
    pub fn from_environment() -> Result<Self, StartError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut handed = ListenFd::from_env();
        let mut sockets = HashMap::new();
        for (index, name) in names.split(':').enumerate().take(handed.len()) {
            let fault = |error| StartError::new(format!("socket {name} was not handed down well")).with_source(error);
            if let Some(socket) = handed.take_tcp_listener(index).map_err(fault)? {
                socket.set_nonblocking(true).map_err(fault)?;
                sockets.insert(name.to_owned(), socket);
            }
        }
        Ok(Self(Arc::new(Mutex::new(sockets))))
    }

    /// The socket of this name, non-blocking; `None` when there is none or it has been taken.
    pub fn take(&self, name: &str) -> Option<TcpListener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}
