//! The HTTP server: a thread of its own, so that neither a pass nor the liveness thread waits for whoever asks.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{Error, out};

/// What is asked for, and what is answered.
pub(super) trait Site: Send + 'static {
    /// `/metrics`, in the format of [`out::CONTENT_TYPE`], or why there is none.
    fn metrics(&mut self) -> Result<String, String>;

    /// `/healthz`: why the agent should be started anew, if it should.
    fn health(&self) -> Result<(), String>;

    /// `/readyz`: why the node does not serve yet, if it does not.
    fn readiness(&self) -> Result<(), String>;
}

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A connection has so long for its request.
const HEADERS: Duration = Duration::from_secs(5);
/// And so long for everything.
const WHOLE: Duration = Duration::from_secs(20);
/// Of a request's head.
const MOST_BYTES: usize = 8192;
/// The maps are not read more often, whoever asks how often.
const FRESH: Duration = Duration::from_secs(1);
/// An address that cannot be had is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// An address to be served at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; of all addresses the one of IPv6 stands for both families.
    pub address: SocketAddr,
    /// The flag that changes it.
    pub flag: &'static str,
}

/// A server, as long as it is held.
pub(super) struct Server {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it on a thread of its own. An address that another program has is tried again and again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(listens: Vec<Listen>, site: impl Site) -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let (end, ended) = oneshot::channel();
        let serve = move || runtime.block_on(serve(listens, site, ended));
        let thread =
            std::thread::Builder::new().name("metrics".to_owned()).spawn(serve).map_err(Error::Start)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Serves until `end` is dropped or sent to.
async fn serve(listens: Vec<Listen>, site: impl Site, end: oneshot::Receiver<()>) {
    let answers = Rc::new(RefCell::new(Answers { site, last: None }));
    let tasks = tokio::task::LocalSet::new();
    for listen in listens {
        let answers = Rc::clone(&answers);
        tasks.spawn_local(async move { accept(bound(&listen).await, answers).await });
    }
    let _ = tasks.run_until(end).await;
}

async fn bound(Listen { address, flag }: &Listen) -> TcpListener {
    loop {
        match bind(*address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics and health");
                return listener;
            }
            Err(error) => {
                tracing::error!(
                    %address,
                    %error,
                    "no metrics or health here: {flag} changes the address; it is tried again"
                );
                sleep(AGAIN).await;
            }
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    match &bound {
        // A kernel without IPv6.
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        _ => bound,
    }
}

async fn accept(listener: TcpListener, answers: Rc<RefCell<Answers<impl Site>>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Of one connection, or for want of descriptors: those that are open end soon.
                tracing::warn!(%error, "metrics: a connection is not taken");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answers = Rc::clone(&answers);
        tokio::task::spawn_local(async move {
            converse(stream, |request| answers.borrow_mut().answer(request)).await;
            drop(place);
        });
    }
}

/// One request. Whatever goes wrong is the client's to notice.
async fn converse(stream: TcpStream, answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>>) {
    let service = service_fn(|request| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MOST_BYTES).keep_alive(false);
    let _ = timeout(WHOLE, builder.serve_connection(TokioIo::new(stream), service)).await;
}

struct Answers<S> {
    site: S,
    last: Option<(Instant, Bytes)>,
}

impl<S: Site> Answers<S> {
    fn answer(&mut self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into());
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let verdict = |verdict: Result<(), String>| match verdict {
            Ok(()) => plain(StatusCode::OK, "ok".into()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why.into()),
        };
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => verdict(self.site.health()),
            "/readyz" => verdict(self.site.readiness()),
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz".into()),
        }
    }

    fn metrics(&mut self) -> Response<Full<Bytes>> {
        let known = self.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, text)| text.clone());
        let text = match known {
            Some(text) => text,
            None => match self.site.metrics() {
                Ok(text) => {
                    let text = Bytes::from(text);
                    self.last = Some((Instant::now(), text.clone()));
                    text
                }
                Err(why) => return plain(StatusCode::SERVICE_UNAVAILABLE, why.into()),
            },
        };
        with_type(StatusCode::OK, out::CONTENT_TYPE, text)
    }
}

fn plain(status: StatusCode, text: Bytes) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text)
}

fn with_type(status: StatusCode, content_type: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    struct Fake {
        is_ready: bool,
        scrapes: Arc<std::sync::atomic::AtomicU64>,
    }

    impl Site for Fake {
        fn metrics(&mut self) -> Result<String, String> {
            let before = self.scrapes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(format!("scrapes {}\n", before + 1))
        }

        fn health(&self) -> Result<(), String> {
            Ok(())
        }

        fn readiness(&self) -> Result<(), String> {
            if self.is_ready { Ok(()) } else { Err("not yet".to_owned()) }
        }
    }

    /// A server, and its address; `client` runs beside it.
    async fn with_server(
        is_ready: bool,
        client: impl AsyncFnOnce(SocketAddr, Arc<std::sync::atomic::AtomicU64>) -> Done,
    ) -> Done {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let scrapes = Arc::default();
        let site = Fake { is_ready, scrapes: Arc::clone(&scrapes) };
        let tasks = tokio::task::LocalSet::new();
        tokio::select! {
            () = tasks.run_until(accept(listener, Rc::new(RefCell::new(Answers { site, last: None })))) => Err("the server has ended".into()),
            done = client(address, scrapes) => done,
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: n1\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn each_path_has_its_answer() -> Done {
        with_server(false, async |address, _| {
            let metrics = ask(address, "GET /metrics").await?;
            assert!(
                metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("\r\n\r\nscrapes 1\n"),
                "{metrics}"
            );
            assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
            for (request, expected) in [
                ("GET /healthz", "200"),
                ("HEAD /healthz", "200"),
                ("GET /readyz", "503"),
                ("GET /", "404"),
                ("GET /metrics/..", "404"),
                ("POST /metrics", "405"),
                ("nonsense", "400"),
            ] {
                let answer = ask(address, request).await?;
                assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{request}: {answer}");
            }
            Ok(())
        })
        .await?;
        with_server(true, async |address, _| {
            assert!(ask(address, "GET /readyz").await?.starts_with("HTTP/1.1 200"));
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn however_often_somebody_asks_the_maps_are_read_once_a_second() -> Done {
        with_server(true, async |address, scrapes| {
            let begin = Instant::now();
            for _ in 0..50 {
                ask(address, "GET /metrics").await?;
            }
            let scrapes = scrapes.load(std::sync::atomic::Ordering::Relaxed);
            assert!(scrapes <= 1 + begin.elapsed().as_secs(), "{scrapes}");
            Ok(())
        })
        .await
    }

    /// The clock jumps to the next timer whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_give_way() -> Done {
        with_server(true, async |address, _| {
            let mut silent = Vec::new();
            for _ in 0..3 * CONNECTIONS {
                silent.push(TcpStream::connect(address).await?);
            }
            assert!(ask(address, "GET /metrics").await?.starts_with("HTTP/1.1 200"));
            // One that speaks, but never to an end.
            let mut slow = TcpStream::connect(address).await?;
            while slow.write_all(b"GET ").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        })
        .await
    }
}
