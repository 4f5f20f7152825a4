//! The little gRPC that a proxy must speak to answer a session's unary call itself.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Uri, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use prost::Message;
use tonic::{Code, Status};

use super::{BoxError, SessionBody, SessionRequest, SessionResponse};

/// One byte says whether the message is compressed, four how long it is.
const PREFIX: usize = 5;

/// An answer that is an error and nothing else.
pub fn grpc_error(code: Code, message: impl Into<String>) -> SessionResponse {
    status_response(Status::new(code, message))
}

/// The same of a whole status: its details and metadata are kept.
pub fn status_response(status: Status) -> SessionResponse {
    status.into_http::<Empty<Bytes>>().map(boxed)
}

/// An answer as it came, to be passed on. One whose headers have the status is over with them, which its body may not know: a peer that
/// wants no more of the request says so behind its answer, and that hides the answer's end.
pub fn passed_on<B>(response: http::Response<B>) -> SessionResponse
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let over = response.headers().contains_key("grpc-status");
    response.map(|body| match over {
        true => boxed(Empty::new()),
        false => boxed(body),
    })
}

/// A unary call's answer.
pub fn unary_response(message: &impl Message) -> SessionResponse {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Ok(Frame::data(encode_message(message))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = http::Response::new(boxed(StreamBody::new(futures::stream::iter::<
        [Result<_, BoxError>; 2],
    >(frames))));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A unary call; `path` is `/package.Service/Method`.
pub fn unary_request(
    path: &str,
    message: &impl Message,
) -> Result<SessionRequest, http::uri::InvalidUri> {
    let mut request = Request::new(boxed(Full::new(encode_message(message))));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = path.parse::<Uri>()?;
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    Ok(request)
}

/// Reads a whole body of one message, of `limit` bytes at most.
pub async fn read_unary<M: Message + Default>(
    body: SessionBody,
    limit: usize,
) -> Result<M, Status> {
    decode_message(&read_body(body, limit).await?)
}

/// Reads a body of at most `limit` bytes of message, undecoded.
pub(super) async fn read_body(mut body: SessionBody, limit: usize) -> Result<Bytes, Status> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::unavailable(format!("the message broke off: {e}")))?;
        // Trailers of a request mean nothing.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if read.len() + data.len() > limit.saturating_add(PREFIX) {
            return Err(Status::resource_exhausted(format!(
                "the message is longer than {limit} bytes"
            )));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Decodes the only message of a body.
pub(super) fn decode_message<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    let (prefix, message) = body
        .split_first_chunk::<PREFIX>()
        .ok_or_else(|| Status::internal("the message broke off"))?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status::unimplemented(
            "compressed messages are not supported",
        ));
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(Status::internal("the body is not one message"));
    }
    M::decode(message).map_err(|e| Status::internal(format!("the message can't be read: {e}")))
}

fn encode_message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut data = BytesMut::with_capacity(PREFIX + length);
    data.put_u8(0);
    data.put_u32(u32::try_from(length).expect("no message of this API comes near 4 GiB"));
    message.encode_raw(&mut data);
    data.freeze()
}

/// Any body as a session's.
pub fn boxed<B>(body: B) -> SessionBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::filesync::CredentialsRequest;

    fn message() -> CredentialsRequest {
        CredentialsRequest {
            host: "registry.example".into(),
        }
    }

    #[tokio::test]
    async fn a_message_is_read_as_it_was_written_with_its_trailers() {
        let response = unary_response(&message());
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(
            decode_message::<CredentialsRequest>(&body.to_bytes()).unwrap(),
            message()
        );
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_one_at_it_is_not() {
        let length = message().encoded_len();
        let body = || unary_request("/a.B/C", &message()).unwrap().into_body();
        assert_eq!(
            read_unary::<CredentialsRequest>(body(), length)
                .await
                .unwrap(),
            message()
        );
        let status = read_unary::<CredentialsRequest>(body(), length - 1)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }

    #[test]
    fn malformed_bodies_are_errors() {
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x01",
            b"\0\0\0\0\0x",
            b"\0\0\0\0\x01\xff",
        ] {
            decode_message::<CredentialsRequest>(body).unwrap_err();
        }
    }

    #[test]
    fn an_answer_that_is_only_an_error_is_passed_on_as_one_even_if_its_body_does_not_know() {
        let unsure = |status: Option<&'static str>| {
            let nothing = futures::stream::iter::<[Result<Frame<Bytes>, BoxError>; 0]>([]);
            let mut response = http::Response::new(StreamBody::new(nothing));
            if let Some(status) = status {
                let status = HeaderValue::from_static(status);
                response.headers_mut().insert("grpc-status", status);
            }
            passed_on(response)
        };
        assert!(!http_body::Body::is_end_stream(unsure(None).body()));
        let error = unsure(Some("2"));
        assert_eq!(error.headers()["grpc-status"], "2");
        assert!(http_body::Body::is_end_stream(error.body()));
    }

    #[test]
    fn an_error_ends_the_response_with_its_headers() {
        let response = grpc_error(Code::Unauthenticated, "no password for you & me");
        assert_eq!(response.headers()["grpc-status"], "16");
        assert!(http_body::Body::is_end_stream(response.body()));
        assert_eq!(
            Status::from_header_map(response.headers())
                .unwrap()
                .message(),
            "no password for you & me"
        );
    }
}
