//! Just enough RESP2 to drive load: commands out, replies in, over one buffered connection.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The longest reply that this demo can get: far more than it stores.
const REPLY_MAX: usize = 64 * 1024;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK` and the like.
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A value.
    Bulk(Vec<u8>),
    /// No value.
    Null,
}

/// One connection to a RESP port.
#[derive(Debug)]
pub(super) struct Wire {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Wire {
    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(16 * 1024, stream),
            out: Vec::new(),
        })
    }

    /// Adds a command to what [`Self::flush`] sends.
    pub(super) fn queue(&mut self, arguments: &[&[u8]]) {
        self.out
            .extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
        for argument in arguments {
            self.out
                .extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            self.out.extend_from_slice(argument);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    pub(super) async fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Reply> {
        self.queue(arguments);
        self.flush().await?;
        self.reply().await
    }

    pub(super) async fn reply(&mut self) -> io::Result<Reply> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no RESP reply");
        let mut line = Vec::new();
        (&mut self.stream)
            .take(REPLY_MAX as u64)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            ));
        }
        let line = String::from_utf8(line).map_err(|_| invalid())?;
        let text = line.strip_suffix("\r\n").ok_or_else(invalid)?;
        let rest = text.get(1..).ok_or_else(invalid)?;
        match text.as_bytes()[0] {
            b'+' => Ok(Reply::Simple(rest.to_owned())),
            b'-' => Ok(Reply::Error(rest.to_owned())),
            b':' => rest.parse().map(Reply::Integer).map_err(|_| invalid()),
            b'$' if rest == "-1" => Ok(Reply::Null),
            b'_' => Ok(Reply::Null),
            b'$' => {
                let size: usize = rest.parse().map_err(|_| invalid())?;
                if size > REPLY_MAX {
                    return Err(invalid());
                }
                let mut value = vec![0; size + 2];
                self.stream.read_exact(&mut value).await?;
                value.truncate(size);
                Ok(Reply::Bulk(value))
            }
            _ => Err(invalid()),
        }
    }
}
