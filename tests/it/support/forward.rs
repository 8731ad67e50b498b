//! A name that leads where a test wants: a loopback port whose connections go to other ports, in turn.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Forwards until it is dropped; connections that stand then go on until one side ends.
#[derive(Debug)]
pub struct Forwarder {
    pub port: u16,
    targets: Arc<Mutex<Vec<u16>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// The first connection goes to the first of `targets`, the next to the next, and so on, over and over.
    pub fn to(targets: &[u16]) -> Self {
        Self::start(targets, Duration::ZERO)
    }

    /// What passes takes `delay` in each direction.
    pub fn far_from(target: u16, delay: Duration) -> Self {
        Self::start(&[target], delay)
    }

    fn start(targets: &[u16], delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
        let port = listener.local_addr().expect("bound").port();
        let targets = Arc::new(Mutex::new(targets.to_vec()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, list) = (Arc::clone(&is_over), Arc::clone(&targets));
        let thread = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let target = {
                    let mut list = list.lock().expect("no panic");
                    list.rotate_left(1);
                    list[list.len() - 1]
                };
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) {
                    pass(&client, &server, delay);
                    pass(&server, &client, delay);
                }
            }
        });
        Self { port, targets, is_over, thread: Some(thread) }
    }

    /// From the next connection on.
    pub fn lead_to(&self, targets: &[u16]) {
        *self.targets.lock().expect("no panic") = targets.to_vec();
    }
}

fn pass(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            thread::sleep(delay);
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    });
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
