//! Bytes that are no proper request.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use moult_tests::cluster::Cluster;
use moult_tests::http::read_answer;
use moult_tests::rng::Rng;

/// Method, path, headers, body, and the statuses that fit.
type Wrong<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a [u16]);

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let cluster = Cluster::of_four();
    let mut node = cluster.client(0);

    // Requests that are HTTP, and wrong: 4xx, an error body, certainly not applied.
    let long_key = format!("/v1/kv/{}", "k".repeat(1025));
    let large = vec![0; 2 << 20];
    let wrong: [Wrong<'_>; 17] = [
        ("GET", "/nothing", &[], b"", &[404]),
        ("PATCH", "/v1/kv/k", &[], b"", &[405]),
        ("PUT", "/v1/kv/", &[], b"v", &[400, 404]),
        ("PUT", "/v1/kv/%zz", &[], b"v", &[400]),
        ("PUT", "/v1/kv/%", &[], b"v", &[400]),
        ("PUT", &long_key, &[], b"v", &[400]),
        ("PUT", "/v1/kv/k", &[], &large, &[413]),
        ("PUT", "/v1/kv/k", &[("moult-client", "c")], b"v", &[400]),
        ("PUT", "/v1/kv/k", &[("moult-client", "c"), ("moult-seq", "-1")], b"v", &[400]),
        ("PUT", "/v1/kv/k?expect=xyz", &[], b"v", &[400]),
        ("GET", "/v1/kv/k?consistency=maybe", &[], b"", &[400]),
        ("GET", "/v1/blocks/99999999999999999999", &[], b"", &[400]),
        ("GET", "/v1/blocks/-1", &[], b"", &[400]),
        ("GET", "/v1/blocks/4000000000", &[], b"", &[404]),
        ("GET", "/v1/tx/zz", &[], b"", &[400, 404]),
        ("POST", "/v1/proposals", &[], b"{\"modules\":{\"engine\":", &[400]),
        ("POST", "/v1/proposals", &[], b"{\"surprise\":1}", &[400]),
    ];
    for (method, path, headers, body, expected) in wrong {
        let shown: String = path.chars().take(60).collect();
        match node.call(method, path, headers, body) {
            Ok(answer) => panic!("{method} {shown}: answered {}", answer.status),
            Err(failure) => {
                let status = failure.status();
                assert!(status.is_some_and(|s| expected.contains(&s)), "{method} {shown}: {failure}");
                assert!(failure.is_without_effect(), "{method} {shown}: {failure}");
            }
        }
    }
    // Administration without the token.
    let mut stranger = moult_tests::api::Api::new(cluster.node(0).api, None);
    let refused = stranger.call("POST", "/v1/proposals", &[], b"{}").expect_err("no token");
    assert_eq!(refused.status(), Some(401), "{refused}");

    // Bytes that are no HTTP, headers without end, bodies that break off.
    let address = cluster.node(0).api;
    let mut rng = Rng::new(7);
    for round in 0..40 {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("set");
        let bytes: Vec<u8> = match round % 4 {
            0 => (0..2000).map(|_| rng.draw() as u8).collect(),
            1 => format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "h".repeat(1 << 20)).into_bytes(),
            2 => b"PUT /v1/kv/broken HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this".to_vec(),
            _ => b"PUT /v1/kv/k HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        };
        // The node may close while we write.
        let _ = stream.write_all(&bytes);
        if round % 4 == 2 {
            continue;
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reader = BufReader::new(stream);
        if let Ok(answer) = read_answer(&mut reader) {
            assert!((400..500).contains(&answer.status), "round {round}: {}", answer.status);
        }
        let _ = reader.read(&mut [0]);
    }
    assert_eq!(node.read("broken").expect("read"), None, "half a body was taken for a whole one");

    // UDP that is no QUIC.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..1200).map(|_| rng.draw() as u8).collect();
        let _ = socket.send_to(&bytes, cluster.node(0).p2p);
    }
    node.put("after", b"all that", None).expect("it works as before");
    moult_tests::blocks::assert_one_chain(&cluster, &[0, 1, 2, 3]);
}
