//! Amazon EC2, through the instance metadata service, version 2 (with a session token).
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>.

use super::metadata_http::{Answer, Failure, MetadataHttp, MetadataService, Question};
use super::{Claim, Found, Notice, Provider, ProviderError, Recognition, known, note_trouble, recognise_id};
use crate::run_state::Identity;
use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use std::time::{Duration, Instant};
use taskcluster_api::WorkerProof;

const HOST: &str = "169.254.169.254";
const FOLDER: &str = "/latest";

const TOKEN: &str = "/api/token";
const USER_DATA: &str = "/user-data";
const DOCUMENT: &str = "/dynamic/instance-identity/document";
const SIGNATURE: &str = "/dynamic/instance-identity/signature";
const PUBLIC_HOSTNAME: &str = "/meta-data/public-hostname";
const PUBLIC_IPV4: &str = "/meta-data/public-ipv4";
const SPOT_ACTION: &str = "/meta-data/spot/instance-action";
const TERMINATION_TIME: &str = "/meta-data/spot/termination-time";

/// A session token's life, in seconds: the longest there is.
const TOKEN_LIFE: &str = "21600";

/// A token older than this is not used any more.
const TOKEN_RENEWAL: Duration = Duration::from_secs(5 * 60 * 60);

/// Between two looks for a notice.
const POLL: Duration = Duration::from_secs(1);

/// EC2.
pub struct Aws {
    metadata: MetadataHttp,
    token: Option<(String, Instant)>,
    announced: Option<Notice>,
    trouble: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserData {
    worker_pool_id: String,
    provider_id: String,
    worker_group: String,
    root_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    instance_id: String,
    #[serde(default)]
    image_id: Option<String>,
    #[serde(default)]
    instance_type: Option<String>,
    region: String,
    availability_zone: String,
    #[serde(default)]
    private_ip: Option<String>,
}

#[derive(Deserialize)]
struct SpotAction {
    action: String,
    time: String,
}

impl Aws {
    pub fn new(service: &MetadataService) -> Result<Self, ProviderError> {
        let metadata = MetadataHttp::new(service, HOST, FOLDER, None)?;
        Ok(Self { metadata, token: None, announced: None, trouble: false })
    }

    async fn new_token(&self) -> Result<String, ProviderError> {
        Ok(self.metadata.required(token_question()).await?.text)
    }

    /// One look for a notice: `None` where there is none.
    async fn look(&mut self) -> Result<Option<Notice>, Failure> {
        let token = match self.token.take().filter(|(_, made)| made.elapsed() < TOKEN_RENEWAL) {
            Some(token) => token,
            None => (self.metadata.ask(&token_question()).await?.text, Instant::now()),
        };
        let ask = async |path| match self.metadata.ask(&with_token(path, &token.0)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Status(status)) if status.as_u16() == 404 => Ok(None),
            Err(failure) => Err(failure),
        };
        let (action, time) = (ask(SPOT_ACTION).await?, ask(TERMINATION_TIME).await?);
        self.token = Some(token);
        Ok(notice(action.as_ref(), time.as_ref()))
    }
}

#[async_trait]
impl Provider for Aws {
    async fn identify(&self) -> Result<Found, ProviderError> {
        let token = self.new_token().await?;
        let required = |path| self.metadata.required(with_token(path, &token));
        let optional = |path| {
            let question = with_token(path, &token);
            async { Ok(self.metadata.optional(question).await) }
        };
        let (user_data, document, signature, hostname, address, action, time) = tokio::try_join!(
            required(USER_DATA),
            required(DOCUMENT),
            required(SIGNATURE),
            optional(PUBLIC_HOSTNAME),
            optional(PUBLIC_IPV4),
            optional(SPOT_ACTION),
            optional(TERMINATION_TIME),
        )?;
        if let Some(notice) = notice(action.as_ref(), time.as_ref()) {
            return Err(ProviderError::Reclaimed(notice));
        }
        let from_document: Document = self.metadata.json(DOCUMENT, &document)?;
        let identity = self.identity(&user_data, &from_document, hostname, address)?;
        let proof = WorkerProof::Aws { document: document.text.into(), signature: signature.text.into() };
        Ok(Found { identity, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let token = self.new_token().await?;
        let (document, signature) = tokio::try_join!(
            self.metadata.required(with_token(DOCUMENT, &token)),
            self.metadata.required(with_token(SIGNATURE, &token)),
        )?;
        Ok(WorkerProof::Aws { document: document.text.into(), signature: signature.text.into() })
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        let ask = async {
            let token = self.new_token().await?;
            let answer = self.metadata.required(with_token(DOCUMENT, &token)).await?;
            Ok(self.metadata.json::<Document>(DOCUMENT, &answer)?.instance_id)
        };
        let id: Result<String, ProviderError> = ask.await;
        recognise_id(cached.worker_id.as_str(), id.as_deref())
    }

    async fn next_notice(&mut self) -> Notice {
        loop {
            tokio::time::sleep(POLL).await;
            let found = self.look().await;
            note_trouble(&mut self.trouble, found.as_ref().err());
            if let Ok(Some(notice)) = found
                && self.announced.as_ref() != Some(&notice)
            {
                self.announced = Some(notice.clone());
                return notice;
            }
        }
    }
}

impl Aws {
    fn identity(
        &self,
        user_data: &Answer,
        document: &Document,
        hostname: Option<Answer>,
        address: Option<Answer>,
    ) -> Result<Identity, ProviderError> {
        let metadata = &self.metadata;
        let user: UserData = metadata.json(USER_DATA, user_data)?;
        let facts = [
            ("instance-id", Some(document.instance_id.clone())),
            ("image", document.image_id.clone()),
            ("instance-type", document.instance_type.clone()),
            ("region", Some(document.region.clone())),
            ("availability-zone", Some(document.availability_zone.clone())),
            ("local-ipv4", document.private_ip.clone()),
            ("public-hostname", hostname.map(|answer| answer.text)),
            ("public-ipv4", address.map(|answer| answer.text)),
        ];
        let location =
            [("cloud", "aws"), ("region", &document.region), ("availabilityZone", &document.availability_zone)];
        Ok(Identity {
            root_url: metadata.parse(USER_DATA, "rootUrl", &user.root_url)?,
            provider_id: metadata.parse(USER_DATA, "providerId", &user.provider_id)?,
            worker_pool_id: metadata.parse(USER_DATA, "workerPoolId", &user.worker_pool_id)?,
            worker_group: metadata.parse(USER_DATA, "workerGroup", &user.worker_group)?,
            worker_id: metadata.parse(DOCUMENT, "instanceId", &document.instance_id)?,
            metadata: known(facts),
            location: location.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        })
    }
}

fn token_question() -> Question {
    Question::put(TOKEN).header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE)
}

fn with_token(path: &'static str, token: &str) -> Question {
    Question::get(path).header("x-aws-ec2-metadata-token", token)
}

/// What the two documents say: the newer one says more.
fn notice(action: Option<&Answer>, termination_time: Option<&Answer>) -> Option<Notice> {
    if let Some(answer) = action
        && let Ok(action) = serde_json::from_str::<SpotAction>(&answer.text)
    {
        let word: String = action.action.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        let source = format!("AWS is about to {word} this spot instance");
        return Some(Notice { source, deadline: action.time.parse().ok() });
    }
    // Anything that is no time, such as an error page, is no notice.
    let deadline: Timestamp = termination_time?.text.trim().parse().ok()?;
    Some(Notice { source: "AWS is about to terminate this spot instance".to_owned(), deadline: Some(deadline) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;

    fn answer(text: &str) -> Answer {
        Answer { text: text.to_owned(), headers: HeaderMap::new() }
    }

    #[test]
    fn either_document_is_a_notice_and_rubbish_is_none() {
        let action = answer(r#"{"action": "stop", "time": "2026-11-20T08:22:00Z"}"#);
        let time = answer("2026-11-20T08:22:00Z");
        let rubbish = answer("<html>");
        let deadline: Timestamp = "2026-11-20T08:22:00Z".parse().unwrap();
        assert_eq!(notice(Some(&action), Some(&time)).unwrap().source, "AWS is about to stop this spot instance");
        assert_eq!(notice(None, Some(&time)).unwrap().deadline, Some(deadline));
        assert_eq!(notice(Some(&rubbish), Some(&rubbish)), None);
        assert_eq!(notice(None, None), None);
    }
}
