create database airflow owner emberflow;
