//! An instance metadata service, version 2, that says one instance and one region.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Dropped, it is gone.
#[derive(Debug)]
pub struct Imds {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Imds {
    pub fn start(instance: &'static str, region: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
        let address = listener.local_addr().expect("bound");
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // A client that breaks off asks again.
                drop(answer(stream, instance, region));
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(mut stream: TcpStream, instance: &str, region: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        head.push(line.to_lowercase());
    }
    let has = |text: &str| head.iter().any(|line| line.starts_with(text));
    let token = "a-token";
    let (status, body) = if has("put /latest/api/token ") {
        ("200 OK", token)
    } else if !has(&format!("x-aws-ec2-metadata-token: {token}")) {
        ("401 Unauthorized", "")
    } else if has("get /latest/meta-data/placement/region ") {
        ("200 OK", region)
    } else if has("get /latest/meta-data/instance-id ") {
        ("200 OK", instance)
    } else {
        ("404 Not Found", "")
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\ncontent-type: text/plain\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
