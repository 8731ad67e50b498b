//! A relay on loopback between the database driver and the server, which sees how far a login has come.
//!
//! The driver connects by itself, takes no socket of ours, and says only at the end how it went. So it is given a
//! loopback port of this relay instead of the server's, and the stage is read off the bytes that pass: the server's
//! greeting is the first packet, and the login proper begins with the client's first TLS record of application data.
//! No task runs for it: whoever waits for the driver moves the bytes meanwhile, and when he is dropped both sockets
//! close.

use std::io;
use std::pin::pin;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Longer than any greeting or refusal.
const GREETING_LIMIT: usize = 64 * 1024;
/// The protocol version that every MySQL since 3.21 greets with, and the mark of an error packet.
const GREETING: u8 = 10;
const REFUSAL: u8 = 0xff;
/// TLS content type of everything after the handshake.
const APPLICATION_DATA: u8 = 23;

/// Why nothing passes any more.
#[derive(Debug)]
pub(super) enum End {
    /// The server closed the connection.
    Closed,
    Broken(io::Error),
    /// What the server said first is not the protocol.
    NotMysql(String),
    /// The driver closed its side, and all it sent was passed on.
    Driver,
}

#[derive(Debug)]
pub(super) struct Relay {
    driver: TcpStream,
    server: TcpStream,
    up: Buffer,
    down: Buffer,
    greeting: Greeting,
    records: Option<Records>,
    end: Option<End>,
}

impl Relay {
    pub(super) fn new(driver: TcpStream, server: TcpStream, tls: bool) -> Self {
        Self {
            driver,
            server,
            up: Buffer::default(),
            down: Buffer::default(),
            greeting: Greeting::default(),
            records: tls.then(Records::default),
            end: None,
        }
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Waits for `work` of the driver while bytes pass; `enter` is told each stage that begins.
    pub(super) async fn drive<F: Future>(&mut self, work: F, enter: &mut impl FnMut(&'static str)) -> F::Output {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            output = &mut work => return output,
            () = self.pump(enter) => {}
        }
        // The driver reads what was passed on, then the end of it.
        work.await
    }

    /// Passes on what the driver sent before it closed its side.
    pub(super) async fn finish(mut self) {
        self.pump(&mut |_| ()).await;
    }

    /// Moves bytes until one side ends. Safe to drop at any point: what was read and not yet written is kept.
    async fn pump(&mut self, enter: &mut impl FnMut(&'static str)) {
        while self.end.is_none() {
            tokio::select! {
                ready = self.server.readable(), if self.down.is_empty() => {
                    match ready.and_then(|()| self.down.fill(&self.server)) {
                        Ok(0) => self.end = Some(End::Closed),
                        Ok(_) => match self.greeting.follow(self.down.filled()) {
                            Ok(false) => {}
                            Ok(true) => enter(if self.records.is_some() { "tls" } else { "auth" }),
                            Err(said) => self.end = Some(End::NotMysql(said)),
                        },
                        Err(error) => self.fail(error),
                    }
                }
                ready = self.driver.writable(), if !self.down.is_empty() => {
                    if !moved(ready.and_then(|()| self.down.drain(&self.driver))) {
                        self.end = Some(End::Driver);
                    }
                }
                ready = self.driver.readable(), if self.up.is_empty() => {
                    match ready.and_then(|()| self.up.fill(&self.driver)) {
                        Ok(0) => self.end = Some(End::Driver),
                        Ok(_) => {
                            if self.records.as_mut().is_some_and(|records| records.follow(self.up.filled())) {
                                enter("auth");
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => self.end = Some(End::Driver),
                    }
                }
                ready = self.server.writable(), if !self.up.is_empty() => {
                    if let Err(error) = ready.and_then(|()| self.up.drain(&self.server)) {
                        self.fail(error);
                    }
                }
            }
        }
        // Whoever is left hears of it. Errors do not matter: that side is gone as well then.
        let other = if matches!(self.end, Some(End::Driver)) { &mut self.server } else { &mut self.driver };
        drop(other.shutdown().await);
    }

    fn fail(&mut self, error: io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.end = Some(End::Broken(error));
        }
    }
}

fn moved(result: io::Result<()>) -> bool {
    !matches!(result, Err(error) if error.kind() != io::ErrorKind::WouldBlock)
}

/// Bytes on their way in one direction.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8; 4096]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: Box::new([0; 4096]), start: 0, end: 0 }
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Reads what is there; only into an empty buffer.
    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let read = from.try_read(&mut self.bytes[..])?;
        (self.start, self.end) = (0, read);
        Ok(read)
    }

    fn drain(&mut self, to: &TcpStream) -> io::Result<()> {
        self.start += to.try_write(self.filled())?;
        Ok(())
    }
}

/// Follows the server's first packet.
#[derive(Debug, Default)]
struct Greeting {
    /// Length (3 bytes, little-endian), sequence number, and the first byte of the packet.
    head: [u8; 5],
    seen: usize,
    complete: bool,
}

impl Greeting {
    /// True when `bytes` complete the greeting; an error, with what was said, when this is not the protocol. A
    /// refusal never completes it: it ends the login in this stage.
    fn follow(&mut self, bytes: &[u8]) -> Result<bool, String> {
        if self.complete {
            return Ok(false);
        }
        let wanted = self.head.iter_mut().skip(self.seen);
        wanted.zip(bytes).for_each(|(to, from)| *to = *from);
        self.seen += bytes.len();
        if self.seen < self.head.len() {
            return Ok(false);
        }
        let [low, middle, high, sequence, kind] = self.head;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if sequence != 0 || length > GREETING_LIMIT || !matches!(kind, GREETING | REFUSAL) {
            return Err(bytes[..bytes.len().min(32)].escape_ascii().to_string());
        }
        self.complete = kind == GREETING && self.seen >= 4 + length;
        Ok(self.complete)
    }
}

/// Follows the client's bytes: one packet that asks for TLS, then TLS records.
#[derive(Debug, Default)]
struct Records {
    head: [u8; 5],
    have: usize,
    /// Rest of the packet or record the client is in.
    skip: usize,
    in_tls: bool,
    found: bool,
}

impl Records {
    /// True once: when the first record of application data begins. The client has verified the server by then.
    fn follow(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.found {
                return false;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.head[self.have] = byte;
            self.have += 1;
            let [first, second, third, fourth, fifth] = self.head;
            if !self.in_tls && self.have == 4 {
                self.skip = u32::from_le_bytes([first, second, third, 0]) as usize;
                (self.in_tls, self.have) = (true, 0);
            } else if self.have == 5 {
                self.skip = u16::from_be_bytes([fourth, fifth]).into();
                self.have = 0;
                self.found = first == APPLICATION_DATA;
                if self.found {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(payload.len()).unwrap(), 0, 0, 0];
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_greeting_is_complete_with_its_last_byte_however_it_is_cut() {
        let greeting = packet(b"\x0a10.11.19-MariaDB\0");
        for cut in 1..greeting.len() {
            let mut follower = Greeting::default();
            assert_eq!(follower.follow(&greeting[..cut]), Ok(false), "{cut}");
            assert_eq!(follower.follow(&greeting[cut..]), Ok(true), "{cut}");
            assert_eq!(follower.follow(b"HTTP"), Ok(false), "later bytes are not the greeting");
        }
    }

    #[test]
    fn a_refusal_stays_in_the_greeting() {
        assert_eq!(Greeting::default().follow(&packet(b"\xff\x10\x04Too many connections")), Ok(false));
    }

    #[test]
    fn other_protocols_are_seen_at_once() {
        for said in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b"220 mail ESMTP\r\n",
            b"\x05\0\0\0\x0b\x08\x05",
        ] {
            assert!(Greeting::default().follow(said).is_err(), "{}", said.escape_ascii());
        }
    }

    #[test]
    fn the_login_begins_with_the_first_application_data() {
        let mut sent = packet(&[0; 32]);
        sent.extend([22, 3, 1, 0, 3, 23, 23, 23]); // ClientHello, its body full of decoys
        sent.extend([20, 3, 3, 0, 1, 1]); // ChangeCipherSpec
        let before = sent.len();
        sent.extend([23, 3, 3, 0, 2, 9, 9, 23, 3, 3, 0, 1, 9]);
        let mut records = Records::default();
        let found: Vec<_> = (0..sent.len()).filter(|&at| records.follow(&sent[at..=at])).collect();
        assert_eq!(found, [before + 4]);
        assert!(Records::default().follow(&sent));
    }
}
