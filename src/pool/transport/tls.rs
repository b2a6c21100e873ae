//! TLS to the server: what each `sslmode` requires, and which certificates it accepts, as in libpq. It knows nothing of
//! the bytes inside.

use crate::error::{Problem, SettingsError};
use crate::pool::transport::socket::ServerSocket;
use crate::settings::{DatabaseSettings, SslMode};
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

pub(crate) type Stream = tokio_rustls::client::TlsStream<ServerSocket>;

/// Whether a connection uses TLS.
#[derive(Clone)]
pub(crate) enum TlsPlan {
    Off,
    Optional(TlsConnector),
    Required(TlsConnector),
}

impl TlsPlan {
    /// # Errors
    ///
    /// `SettingsError`: `sslrootcert` cannot be read or contains no certificate.
    pub(crate) fn new(database: &DatabaseSettings) -> Result<TlsPlan, SettingsError> {
        if database.sslmode == SslMode::Disable {
            return Ok(TlsPlan::Off);
        }
        let connector = connector(database).map_err(|text| SettingsError {
            problems: vec![Problem {
                variable: "DB_SSLROOTCERT".into(),
                value: format!(
                    "{} ({text})",
                    database.sslrootcert.as_deref().unwrap_or("".as_ref()).display()
                ),
                allowed: "a readable PEM file with at least one certificate".into(),
            }],
        })?;
        Ok(match database.sslmode {
            SslMode::Prefer => TlsPlan::Optional(connector),
            _ => TlsPlan::Required(connector),
        })
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self, TlsPlan::Off)
    }

    pub(crate) fn is_optional(&self) -> bool {
        matches!(self, TlsPlan::Optional(_))
    }
}

pub(crate) async fn handshake(tls: &TlsPlan, host: &str, socket: ServerSocket) -> io::Result<Stream> {
    let (TlsPlan::Optional(connector) | TlsPlan::Required(connector)) = tls else {
        return Err(io::Error::other("bug: handshake without TLS"));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    connector.connect(name, socket).await
}

fn connector(database: &DatabaseSettings) -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let check = match database.sslmode {
        SslMode::VerifyCa => Check::Authority(web_pki(database, provider.clone())?),
        SslMode::VerifyFull => Check::Full(web_pki(database, provider.clone())?),
        SslMode::Disable | SslMode::Prefer | SslMode::Require => Check::Nothing,
    };
    // `dangerous` is rustls' name for a custom verifier. `Full` checks all that rustls does by itself; the others check
    // less, as their `sslmode` specifies.
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { check, provider }))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn web_pki(
    database: &DatabaseSettings,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let path = database.sslrootcert.as_deref().ok_or("not set, and this sslmode needs it")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

/// What is verified of the server's certificate.
#[derive(Debug)]
enum Check {
    Nothing,
    Authority(Arc<WebPkiServerVerifier>),
    Full(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let (Check::Authority(verifier) | Check::Full(verifier)) = &self.check else {
            return Ok(ServerCertVerified::assertion());
        };
        match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, so the chain is valid. `verify-ca` does not check the name.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if matches!(self.check, Check::Authority(_)) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
