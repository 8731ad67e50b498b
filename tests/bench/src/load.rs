//! The driver: asks one path in one of several ways and prints how many answers came and how long they took.
//! Every answer must be a complete 200; anything else is counted as an error.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// One answer; longer is an error.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub enum Plan {
    /// Each connection asks again as soon as it is answered.
    KeepAlive { connections: usize, during: Duration },
    /// So many at a time, each request on a connection of its own.
    New { connections: usize, during: Duration },
    /// New connections at a fixed pace, whether the target keeps up or not; latency counts from when each was due.
    Rate { per_second: usize, during: Duration },
    /// Opens so many connections, asks once on each, holds them all open for a moment, closes them.
    Burst { connections: usize },
    /// So many connections that send a byte of their request now and then and never end it; the cut ones come again.
    Slow { connections: usize, during: Duration },
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn note(&mut self, since: Instant, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.latencies_us.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

struct Driver {
    target: String,
    /// Asks and keeps the connection.
    keep: String,
    /// Asks and has the server close the connection.
    close: String,
    tally: RefCell<Tally>,
}

pub async fn run(target: &str, path: &str, plan: Plan) -> io::Result<()> {
    let request = |extra: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n");
    let driver = Rc::new(Driver {
        target: target.to_owned(),
        keep: request(""),
        close: request("Connection: close\r\n"),
        tally: RefCell::default(),
    });
    let seconds = LocalSet::new().run_until(execute(driver.clone(), plan)).await;
    let mut tally = driver.tally.take();
    tally.latencies_us.sort_unstable();
    let count = tally.latencies_us.len();
    let at =
        |thousandths: usize| tally.latencies_us.get((count * thousandths / 1000).min(count.saturating_sub(1))).copied();
    println!(
        r#"{{"answers":{count},"errors":{},"seconds":{seconds:.4},"p50_us":{},"p99_us":{},"p999_us":{},"first_error":{:?}}}"#,
        tally.errors,
        at(500).unwrap_or(0),
        at(990).unwrap_or(0),
        at(999).unwrap_or(0),
        tally.first_error.unwrap_or_default(),
    );
    Ok(())
}

async fn execute(driver: Rc<Driver>, plan: Plan) -> f64 {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    match plan {
        Plan::KeepAlive { connections, during } => {
            // All are open before the first second counts.
            let mut streams = Vec::new();
            for _ in 0..connections {
                match connect(&driver.target).await {
                    Ok(stream) => streams.push(stream),
                    Err(error) => driver.tally.borrow_mut().note(began, Err(error)),
                }
            }
            let began = Instant::now();
            for stream in streams {
                tasks.spawn_local(driver.clone().keep_asking(stream, began + during));
            }
            while tasks.join_next().await.is_some() {}
            return began.elapsed().as_secs_f64();
        }
        Plan::New { connections, during } => {
            for _ in 0..connections {
                let driver = driver.clone();
                tasks.spawn_local(async move {
                    while began.elapsed() < during {
                        driver.clone().ask_anew(Instant::now()).await;
                    }
                });
            }
        }
        Plan::Rate { per_second, during } => {
            let mut tick = interval(Duration::from_millis(1));
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let total = (during.as_secs_f64() * per_second as f64) as usize;
            let mut sent = 0;
            while sent < total {
                tick.tick().await;
                let due = (began.elapsed().as_secs_f64() * per_second as f64) as usize;
                while sent < due.min(total) {
                    let when = began + Duration::from_secs_f64(sent as f64 / per_second as f64);
                    tasks.spawn_local(driver.clone().ask_anew(when));
                    sent += 1;
                }
            }
        }
        Plan::Slow { connections, during } => {
            for _ in 0..connections {
                let driver = driver.clone();
                tasks.spawn_local(async move {
                    while began.elapsed() < during {
                        // Being cut off is what it is for.
                        drop(driver.dribble(began + during).await);
                        sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        }
        Plan::Burst { connections } => {
            let close_at = began + Duration::from_secs(3);
            for _ in 0..connections {
                let driver = driver.clone();
                tasks.spawn_local(async move {
                    let asked = async {
                        let mut stream = connect(&driver.target).await?;
                        exchange(&mut stream, driver.keep.as_bytes(), &mut Vec::new()).await?;
                        Ok(stream)
                    };
                    match asked.await {
                        Ok(stream) => {
                            driver.tally.borrow_mut().note(began, Ok(()));
                            sleep_until(close_at).await;
                            drop(stream);
                        }
                        Err(error) => driver.tally.borrow_mut().note(began, Err(error)),
                    }
                });
                // Many at once, but not more than a listen queue holds.
                if tasks.len() % 200 == 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
    began.elapsed().as_secs_f64()
}

impl Driver {
    async fn keep_asking(self: Rc<Self>, mut stream: Box<dyn Duplex>, until: Instant) {
        let mut buffer = Vec::with_capacity(4096);
        while Instant::now() < until {
            let asked = Instant::now();
            let outcome = exchange(&mut stream, self.keep.as_bytes(), &mut buffer).await;
            let failed = outcome.is_err();
            self.tally.borrow_mut().note(asked, outcome);
            if failed {
                return;
            }
        }
    }

    async fn dribble(&self, until: Instant) -> io::Result<()> {
        let mut stream = connect(&self.target).await?;
        for byte in self.keep.as_bytes().iter().cycle() {
            stream.write_all(&[*byte]).await?;
            if Instant::now() > until {
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    async fn ask_anew(self: Rc<Self>, since: Instant) {
        let outcome = timeout(LIMIT, async {
            let mut stream = connect(&self.target).await?;
            let mut buffer = Vec::with_capacity(1024);
            exchange(&mut stream, self.close.as_bytes(), &mut buffer).await?;
            // The server closes; what still comes would be too much.
            if stream.read_buf(&mut buffer).await? == 0 {
                Ok(())
            } else {
                Err(io::Error::other("more than one answer"))
            }
        })
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        self.tally.borrow_mut().note(since, outcome);
    }
}

async fn connect(target: &str) -> io::Result<Box<dyn Duplex>> {
    if target.starts_with('/') {
        return Ok(Box::new(UnixStream::connect(target).await?));
    }
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Sends `request` and reads one whole answer.
async fn exchange(stream: &mut Box<dyn Duplex>, request: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = whole_length(buffer)
            && buffer.len() >= length
        {
            let good = buffer.starts_with(b"HTTP/1.1 200") && buffer.len() == length;
            return if good { Ok(()) } else { Err(io::Error::other("not a 200 of the right length")) };
        }
    }
}

/// Length of header and body together, once the header is complete.
fn whole_length(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(end + length.unwrap_or(0))
}
