# A node of a Ray cluster: docker build -f deploy/ray.Dockerfile -t recondite-ray .
# Ray and Python are those of the base image; they must be the same on all machines of a cluster.
FROM rayproject/ray:2.60.0-py311

WORKDIR /home/ray/recondite
COPY --chown=ray constraints.txt pyproject.toml README.md LICENSE ./
# torch first and by its exact version: a looser request may bring gigabytes of GPU libraries along.
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)"
COPY --chown=ray src src
RUN pip install --no-cache-dir '.[data,postgres,ray,s3]'
ENV RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/ray
